"""The pieces of benchmarks/population.py: what it counts, what it makes of measurements, and that its turns train."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from caviar.population import Layout

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")
MODULES = ("cifar", "nets", "plain_loops", "population_members", "population_peers", "population_report")
OF_OTHERS = ("population_works",)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules by name, gone from the import system afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    names = (*MODULES, *OF_OTHERS)
    yield {name: import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def digits(modules: dict[str, ModuleType], tmp_path: Path) -> Any:
    """Work B in memory, with trials of one epoch."""
    works = modules["population_works"]
    work = works.the_work("B", quick=True)
    assert works.write_data("B", work, tmp_path / "B", None) == "1,440 digits"
    return works.load_task(work, tmp_path / "B")


@pytest.mark.parametrize("name", ["A", "B", "C", "D"])
def test_operations_of_a_step_are_those_that_torch_counts(
    modules: dict[str, ModuleType], tmp_path: Path, name: str
) -> None:
    works = modules["population_works"]
    work = works.the_work(name, quick=True)
    shape = (3, 32, 32) if work.channels else (work.widths[0],)
    np.save(tmp_path / "inputs.npy", np.ones((work.batch_size, *shape), np.float32))
    np.save(tmp_path / "labels.npy", np.zeros(work.batch_size, np.int64))
    task = works.load_task(work, tmp_path)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(task.net()(task.inputs), task.labels).backward()
    assert works.step_flops(task) == counter.get_total_flops()


def test_quick_rows_are_whole_batches_of_the_pictures_there_are(modules: dict[str, ModuleType]) -> None:
    works = modules["population_works"]
    for name in works.WORKS:
        for quick in (False, True):
            work = works.the_work(name, quick=quick)
            assert work.rows == work.steps * work.batch_size
            assert name in "BD" or work.rows % 10 == 0


def test_pictures_are_standardised_and_in_every_class(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    works = modules["population_works"]
    root = tmp_path / "cifar"
    for label in range(10):
        (root / "train" / f"class{label}").mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(label).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            modules["cifar"].Image.fromarray(pixels).save(root / "train" / f"class{label}" / f"{number:04}.png")
    work = works.replace(works.WORKS["C"], rows=20, batch_size=10)
    works.write_data("C", work, tmp_path / "C", root)
    task = works.load_task(work, tmp_path / "C")
    assert task.inputs.shape == (20, 3, 32, 32)
    assert torch.bincount(task.labels).tolist() == [2] * 10
    torch.testing.assert_close(task.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(task.inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    with pytest.raises(SystemExit, match="expected train"):
        works.write_data("C", works.replace(work, rows=40), tmp_path / "D", root)


@pytest.mark.parametrize("layout", [Layout("singles", 3), Layout("stacked", 3), Layout("chain", 2, 2)])
def test_a_turn_trains_the_members_and_says_what_it_took(
    modules: dict[str, ModuleType], digits: Any, layout: Layout
) -> None:
    session = modules["population_members"].Session(digits, 3, layout=layout)
    before = session.population.member(2).state_dict()
    found = session.turn(0.01)
    assert session.layout == layout
    assert found["seconds"] > 0
    assert 2 * 3 / 45 <= found["trial_epochs"] <= 3
    assert found["flops"] > 0
    after = session.population.member(2).state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(after["output.weight"], session.population.member(1).state_dict()["output.weight"])
    session.population.close()


def test_the_convolutional_net_computes_what_the_plain_one_does(modules: dict[str, ModuleType]) -> None:
    works = modules["population_works"]
    work = works.WORKS["C"]
    inputs = torch.randn(4, 3, 32, 32)
    task = works.Task(work, work.net, inputs, torch.zeros(4).long(), inputs[:0], inputs[:0], 1, 4)
    plain, own = work.net(), modules["population_members"].caviar_net(task)
    own.load_state_dict(dict(zip(own.state_dict(), plain.state_dict().values(), strict=True)))
    torch.testing.assert_close(own(inputs), plain(inputs))


def test_memory_is_measured_beside_what_it_should_be(modules: dict[str, ModuleType], digits: Any) -> None:
    found = modules["population_members"].measure_memory(digits, 64, Layout("chain", 64))
    weights = 64 * 4 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10)
    assert 3 * weights < found["should"] < 3 * weights + 64 * 32 * 4 * 5 * (64 + 64 + 10)
    assert found["taken"] is None or found["taken"] >= 0


def test_hand_written_peers_train(modules: dict[str, ModuleType], digits: Any) -> None:
    peers = modules["population_peers"]
    losses = [
        peers.trial(works_task, 0.05) for works_task in (digits, modules["population_works"].replace(digits, epochs=3))
    ]
    assert losses[1] < losses[0] < 2.4
    with peers.hand_bf16(digits) as train:
        assert train() < 2.4


def test_peers_that_cannot_take_part_say_why(modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    peers, works = modules["population_peers"], modules["population_works"].WORKS
    assert peers.available("scikit-learn", works["C"]) == "has no convolutions"
    assert peers.available("scikit-learn", works["B"]) == ""
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.available("Optuna", works["A"]) == "not installed"


def measured(modules: dict[str, ModuleType], *, milliseconds: dict[int, float], taken: int = 100 << 20) -> Any:
    """The summary of work A, a member's epoch taking so long by the number of members, the hand-written loop's 900."""

    def one(spent: float) -> dict[str, float]:
        return {"seconds": spent / 1000, "trial_epochs": 1.0, "flops": 9e10, "peak": 1e11}

    turns = {f"caviar {n}": [one(spent), one(spent * 2), one(spent)] for n, spent in milliseconds.items()}
    turns |= {name: [one(900), one(1800), one(900)] for name in ("hand-written", "one after another", "Optuna")}
    about = {name: {"layout": ["chain", 1, 1]} for name in turns}
    others = {"about": about, "absent": {"Ray Tune": "not installed"}}
    others["memory"] = {n: {"taken": taken, "should": 100 << 20} for n in milliseconds}
    return modules["population_report"].summary(
        "A", modules["population_works"].WORKS["A"], list(milliseconds), turns, others
    )


def test_ratios_are_taken_within_a_round_and_targets_met(modules: dict[str, ModuleType]) -> None:
    found = measured(modules, milliseconds={1: 900.0, 64: 200.0, 256: 210.0})
    assert found["best"] == 64
    assert found["members"][64]["against_hand"] == {"median": 4.5, "lowest": 4.5, "highest": 4.5}
    assert found["peers"]["Optuna"]["ratio"]["median"] == 4.5
    assert found["met"], [target for target in found["targets"] if not target["met"]]
    report = modules["population_report"]
    console = report.Console(record=True, width=120)
    report.print_result({**found, "data": "rows"}, console)
    text = console.export_text()
    assert "Ray Tune: not installed" in text
    assert "met" in text
    assert "missed" not in text


@pytest.mark.parametrize(
    ("milliseconds", "taken", "missed"),
    [
        ({64: 400.0}, 1, "speed of a member of 64, hand-written 1"),
        ({4: 950.0, 64: 200.0}, 1, "speed of a member of 4, one after another 1"),
        ({64: 200.0, 256: 250.0}, 1, "cost of a member of 256, of 64 1"),
        ({64: 200.0}, 130 << 20, "memory of 64 members, what it should be 1"),
    ],
)
def test_a_missed_target_is_named(
    modules: dict[str, ModuleType], milliseconds: dict[int, float], taken: int, missed: str
) -> None:
    found = measured(modules, milliseconds=milliseconds, taken=taken)
    assert [target["what"] for target in found["targets"] if not target["met"]] == [missed]
    assert not found["met"]
