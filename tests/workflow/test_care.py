"""caviar.train(care=True): nothing done where nothing is wrong, and what it does is repeated by reruns and resumes."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import caviar
from caviar.core.errors import InputError
from caviar.core.store import Store
from caviar.diagnose.quantities.names import MOMENTARY
from caviar.workflow import care as care_module
from caviar.workflow import observers

SLOW = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-5}


def train(folder: Path, name: str, *, care: bool, source: Any = "sample:digits", **settings: Any) -> caviar.Run:
    own = {"training.epochs": 4, "device.threads": 1, "training.checkpoint_seconds": 0, **settings}
    model = own.pop("module", None)
    return caviar.train(source, model=model, settings=own, care=care, runs_dir=folder, name=name, progress=False)


def weights(run: caviar.Run) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (run.path / "bundle").glob("*.safetensors")}
    assert found
    return found


def records(run: caviar.Run) -> list[tuple[str, ...]]:
    return [tuple(map(repr, record)) for record in run.records() if record.name not in MOMENTARY]


def interventions(run: caviar.Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run.summary.get("interventions", [])
    return found


HEALTHY: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: {},
    "sgd, one cycle": lambda: {"optimizer.name": "sgd", "optimizer.learning_rate": 0.05, "schedule.name": "one_cycle"},
    "dropout": lambda: {"model.dropout": 0.3},
    "no batch norm": lambda: {"model.norm": "none", "model.widths": [64]},
    "average": lambda: {"average.name": "ema"},
    "clipped, smoothed": lambda: {"training.clip_norm": 1.0, "loss.label_smoothing": 0.1},
    "regression": lambda: {"source": "sample:diabetes", "training.epochs": 6},
    "own module": lambda: {
        "module": nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)),
        "seed": 5,
    },
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_the_plain_run_byte_for_byte(name: str, tmp_path: Path) -> None:
    settings = HEALTHY[name]()
    plain, cared = (train(tmp_path, f"care-{care}", care=care, **settings) for care in (False, True))
    assert interventions(cared) == []
    assert weights(cared) == weights(plain)
    assert records(cared) == records(plain)


def test_where_no_remedy_helps_the_run_is_the_plain_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are run, and disbelieved: halting, trying and going on must leave no trace in the weights."""
    original = care_module.try_remedies

    def disbelieved(*arguments: Any, **options: Any) -> caviar.Proof:
        return replace(original(*arguments, **options), winner=None)

    monkeypatch.setattr(care_module, "try_remedies", disbelieved)
    settings = {**SLOW, "model.dropout": 0.2}
    plain, cared = (train(tmp_path, f"care-{care}", care=care, **settings) for care in (False, True))
    with Store(cared.folder.store, read_only=True) as store:
        assert store.events("let_be")
        assert store.events("proved")
    assert weights(cared) == weights(plain)
    assert records(cared) == records(plain)


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    return train(tmp_path_factory.mktemp("mended"), "slow", care=True, **SLOW)


def test_a_rate_that_is_too_low_is_mended(mended: caviar.Run, tmp_path: Path) -> None:
    """What it then comes to is what the plain run with the same setting comes to, byte for byte."""
    (act,) = interventions(mended)
    assert "LR001" in act["codes"]
    assert (act["from_step"], act["from_scratch"]) == (0, False)
    assert mended.summary["best"]["dev_accuracy"] > 0.9
    name, value = act["settings"][0].split("=")
    by_hand = train(tmp_path, "by-hand", care=False, **{**SLOW, name: float(value)})
    assert weights(mended) == weights(by_hand)
    with Store(mended.folder.store, read_only=True) as store:
        (event,) = store.events("intervened")
    assert event["settings"] == act["settings"]
    assert mended.recipe.optimizer.learning_rate == 1e-5, "the recipe is what was asked for; running it does the same"


def test_the_recipe_does_the_same_again(mended: caviar.Run, tmp_path: Path) -> None:
    again = caviar.train(mended.path / "recipe.toml", runs_dir=tmp_path, progress=False)
    assert interventions(again) == interventions(mended)
    assert weights(again) == weights(mended)


@pytest.mark.parametrize("steps", [10, 34, 40, 100], ids=["before", "at the look", "after", "later"])
def test_a_resume_repeats_it(steps: int, mended: caviar.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after so many steps of the run itself, those that were taken back counted in."""
    original, taken = observers.ProgressBar.on_step, [0]

    def on_step(self: Any, moment: Any, loss: Any) -> None:
        original(self, moment, loss)
        taken[0] += 1
        if taken[0] == steps:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(observers.ProgressBar, "on_step", on_step)
        with pytest.raises(caviar.Interrupted):
            train(tmp_path, "slow", care=True, **SLOW)
    run = caviar.train(resume=tmp_path / "slow", progress=False)
    assert interventions(run) == interventions(mended)
    assert weights(run) == weights(mended)
    assert records(run) == records(mended)


def test_a_kill_between_deciding_and_going_back(
    mended: caviar.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = care_module._begin

    def begin(care: Any, *rest: Any) -> Any:
        if care.interventions:
            raise KeyboardInterrupt
        return original(care, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(care_module, "_begin", begin)
        with pytest.raises(caviar.Interrupted):
            train(tmp_path, "slow", care=True, **SLOW)
    run = caviar.train(resume=tmp_path / "slow", progress=False)
    assert weights(run) == weights(mended)
    assert records(run) == records(mended)


def test_other_first_weights_begin_anew(tmp_path: Path) -> None:
    run = train(tmp_path, "zero", care=True, **{"model.init": "zeros"})
    act = interventions(run)[0]
    assert act["from_scratch"]
    assert "model.init=auto" in act["settings"]
    assert run.summary["best"]["dev_accuracy"] > 0.9
    assert run.bundle.manifest.recipe["model"]["init"] != "zeros"
    by_hand = train(tmp_path, "by-hand", care=False, **{"model.init": "auto"})
    assert weights(run) == weights(by_hand)


def test_a_run_that_diverges_is_caught(tmp_path: Path) -> None:
    run = train(tmp_path, "wild", care=True, **{"optimizer.name": "sgd", "optimizer.learning_rate": 1e4})
    assert run.summary["status"] == "finished"
    assert run.summary["best"]["dev_accuracy"] > 0.9
    assert interventions(run)


def test_what_care_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"watch\.findings"):
        train(tmp_path, "blind", care=True, **{"watch.findings": "none"})
    with pytest.raises(InputError, match="one model"):
        train(tmp_path, "many", care=True, **{"population.members": 3})
    assert not (tmp_path / "blind").exists()
