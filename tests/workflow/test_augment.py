"""Augmentation in a run: training batches only, a function of (seed, epoch, batch), so a resume repeats it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import caviar
from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import InputError
from caviar.core.seeds import generator_for
from caviar.recipe import from_dict
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import StopRequest, isolated_randomness, train
from caviar.train.state import State, unpack
from caviar.workflow.execute import build_job
from caviar.workflow.plan import Plan, make_plan
from tests.workflow.small import arrays, write_pictures

SOME = {"flip": 0.5, "crop_padding": 1, "rotate": 20.0, "brightness": 0.3, "erase": 0.3, "mixup": 0.2, "cutmix": 1.0}


def plan_of(folder: Path, augment: dict[str, Any], **sections: dict[str, Any]) -> Plan:
    training = {"epochs": 3, "batch_size": 8, "checkpoint_seconds": 0.0}
    settings = {"data": {"source": str(folder)}, "training": training, "augment": augment, **sections}
    return make_plan(from_dict(settings, "the test"))


class StopAt:
    """Asks for a stop after a step."""

    def __init__(self, stop: StopRequest, step: int) -> None:
        self.stop, self.step = stop, step

    def on_step(self, moment: Any, loss: Any) -> None:
        self.stop.requested = moment.step == self.step

    def on_epoch(self, facts: Any) -> None: ...

    def on_save(self, step: int) -> None: ...


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_stop_and_resume_equals_never_stopping(tmp_path: Path, stop_at: int) -> None:
    folder = write_pictures(tmp_path / "pictures", per_class=20)

    def weights(step: int | None) -> dict[str, torch.Tensor]:
        plan = plan_of(folder, SOME)
        job, stop = build_job(plan), StopRequest()
        with isolated_randomness(3, job.device):
            if step is None:
                assert train(job, State(), None, [], stop)
                return job.model.state_dict()
            assert not train(job, State(), Checkpoints(tmp_path / "saved"), [StopAt(stop, step)], stop)
        job = build_job(plan_of(folder, SOME))
        newest = Checkpoints(tmp_path / "saved").steps()[-1]
        path = next((tmp_path / "saved").glob(f"*{newest}.safetensors"))
        state = unpack(read_checkpoint(path), job.model, job.optimizer, job.device)
        assert state.step == step
        with isolated_randomness(99, job.device):
            unpack(read_checkpoint(path), job.model, job.optimizer, job.device)
            assert train(job, state, None, [], StopRequest())
        return job.model.state_dict()

    (tmp_path / "saved").mkdir()
    whole, resumed = weights(None), weights(stop_at)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())


def test_pictures_stay_bytes_and_only_training_batches_change(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", per_class=20)
    plan, plain = plan_of(folder, SOME), plan_of(folder, {})
    train_examples = plan.prepared.examples["train"]
    assert train_examples.inputs.dtype == torch.uint8
    assert not plan.prepared.mapped
    assert plain.prepared.augment is None
    assert plan.prepared.augment is not None
    assert train_examples.rows is not None
    rows = train_examples.rows[:8].long()
    inputs, targets = train_examples.inputs[rows], train_examples.targets[rows]
    before = inputs.clone()
    one, soft = plan.prepared.augment(inputs, targets, generator_for(0, "augment", 1, 0))
    two, _ = plan.prepared.augment(inputs, targets, generator_for(0, "augment", 1, 0))
    other, _ = plan.prepared.augment(inputs, targets, generator_for(0, "augment", 1, 1))
    assert one.equal(two)
    assert not one.equal(other)
    assert inputs.equal(before)
    assert one.shape == inputs.shape
    assert soft.shape == (8, 2)
    assert plan.prepared.prepare(one).shape == plain.prepared.prepare(plain.prepared.examples["train"].inputs[:8]).shape
    for name in ("dev", "test"):
        mine, theirs = plan.prepared.examples[name], plain.prepared.examples[name]
        assert mine.rows is not None
        torch.testing.assert_close(
            plan.prepared.prepare(mine.inputs[mine.rows.long()]), plain.prepared.prepare(theirs.inputs)
        )


def test_a_run_repeats_itself_and_differs_from_one_without(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", per_class=20)

    def network(settings: dict[str, Any]) -> bytes:
        run = caviar.train(folder, epochs=2, settings=settings, progress=False, runs_dir=tmp_path / "runs")
        return (run.path / "bundle" / "network.safetensors").read_bytes()

    changed = {f"augment.{name}": value for name, value in SOME.items()}
    first = network(changed)
    assert first == network(changed)
    assert first != network({})
    assert first != network(changed | {"seed": 1})


def test_what_cannot_be_augmented_is_said(tmp_path: Path) -> None:
    inputs, labels = arrays()
    with pytest.raises(InputError, match=r"\[augment\] changes pictures, and this data is of kind 'arrays'"):
        caviar.train(inputs, labels, settings={"augment.flip": 0.5}, progress=False, runs_dir=tmp_path)
    folder = write_pictures(tmp_path / "pictures", size=8)
    with pytest.raises(InputError, match=r"augment\.crop_padding is 8"):
        plan_of(folder, {"crop_padding": 8, "fill": "reflect"})
    with pytest.raises(InputError, match=r"augment\.scale_crop is \(2\.0, 1\.0\)"):
        plan_of(folder, {"scale_crop": (2.0, 1.0)})
    with pytest.raises(InputError, match=r"augment\.saturation and augment\.hue .* the pictures have 1"):
        caviar.train("sample:digits-pictures", settings={"augment.hue": 0.1}, progress=False, runs_dir=tmp_path)
    with pytest.raises(InputError, match=r"augment\.mixup and augment\.cutmix"):
        plan_of(folder, {"mixup": 0.2}, loss={"name": "hinge"})
