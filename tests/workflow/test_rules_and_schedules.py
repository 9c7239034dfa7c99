"""Second order learns; stops and resumes with rules, schedules and averages; what cannot go together is said first."""

from pathlib import Path
from typing import Any

import pytest
import torch

import caviar
from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import InputError
from caviar.recipe import from_dict
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import StopRequest, isolated_randomness, judged_model, train
from caviar.train.state import State, unpack
from caviar.workflow.execute import build_job
from caviar.workflow.plan import make_plan
from tests.workflow.small import arrays
from tests.workflow.test_augment import StopAt

WHOLE: dict[str, Any] = {"training.batch_size": 266, "device.name": "cpu", "model.dropout": 0.0}
SECOND_ORDER = ("lbfgs", "newton")


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_learns_small_problems(tmp_path: Path, name: str) -> None:
    settings = WHOLE | {"optimizer.name": name, "schedule.name": "constant", "model.norm": "none"}
    more = {"optimizer.max_iterations": 20, "training.batch_size": 1079, "model.widths": [12, 12]}
    run = caviar.train("sample:digits", epochs=15, settings=settings | more, progress=False, runs_dir=tmp_path)
    assert run.metrics["accuracy"]["value"] > 0.85


CASES: list[dict[str, Any]] = [
    {"schedule": {"name": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.5}},
    {"schedule": {"name": "one_cycle", "low_momentum": 0.5}, "optimizer": {"name": "sgd"}},
    {"optimizer": {"name": "ranger", "period": 4}},
    {"optimizer": {"name": "nadam"}, "schedule": {"name": "cosine_restarts", "warmup": 0.2}},
    {"optimizer": {"name": "lbfgs", "max_iterations": 3}, "regularization": {"l2": 0.01}},
    {"optimizer": {"name": "newton", "max_iterations": 3}},
    {"optimizer": {"name": "muon"}},
    {"average": {"name": "ema", "decay": 0.9}},
    {"average": {"name": "swa", "start": 1}},
]


@pytest.mark.parametrize("stop_at", [1, 5, 9])
@pytest.mark.parametrize("sections", CASES, ids=str)
def test_stop_and_resume_equals_never_stopping(tmp_path: Path, sections: dict[str, Any], stop_at: int) -> None:
    torch.manual_seed(0)
    inputs, labels = arrays()
    path = tmp_path / "data.csv"
    rows = [",".join(map(str, (*row, f"c{label}"))) for row, label in zip(inputs, labels, strict=True)]
    path.write_text("\n".join(["a,b,c,d,label", *rows]))
    training = {"epochs": 6, "batch_size": 20, "checkpoint_seconds": 0.0}
    model = {"widths": [6, 6], "dropout": 0.0}

    def job() -> Any:
        settings = {"data": {"source": str(path), "target": "label"}, "training": training, "model": model, **sections}
        return build_job(make_plan(from_dict(settings, "the test")))

    whole = job()
    with isolated_randomness(3, whole.device):
        assert train(whole, State(), None, [], StopRequest())
    first, stop = job(), StopRequest()
    (tmp_path / "saved").mkdir()
    with isolated_randomness(3, first.device):
        assert not train(first, State(), Checkpoints(tmp_path / "saved"), [StopAt(stop, stop_at)], stop)
    again = job()
    newest = next((tmp_path / "saved").glob(f"*{stop_at}.safetensors"))
    with isolated_randomness(99, again.device):
        state = unpack(read_checkpoint(newest), again.model, again.optimizer, again.device, again.averaged_model)
        assert state.step == stop_at
        assert train(again, state, None, [], StopRequest())
    for one, other in ((whole.model, again.model), (judged_model(whole), judged_model(again))):
        expected = one.state_dict()
        assert all(torch.equal(expected[name], tensor) for name, tensor in other.state_dict().items())
    assert whole.schedule(10) == again.schedule(10)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer.name": "lbfgs", "training.clip_norm": 1.0}, r"training\.clip_norm is 1\.0, but lbfgs"),
        ({"optimizer.name": "adagrad", "schedule": {"name": "one_cycle", "low_momentum": 0.8}}, "low_momentum"),
        ({"schedule": {"name": "piecewise", "boundaries": [0.5], "factors": [1.0]}}, "one factor more"),
        ({"schedule": {"name": "staircase", "milestones": [9, 4]}}, "each above the one before"),
        ({"optimizer.name": "muon", "model.widths": [8]}, "no hidden weights"),
        ({"optimizer.name": "muonn"}, "muon"),
        ({"optimizer": {"name": "lookahead", "rule": "lbfgs"}}, "optimizer.rule"),
    ],
)
def test_what_cannot_go_together_is_said_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        caviar.train("sample:digits", settings=settings, progress=False, runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())
