"""Running averages of the weights in the loop: what dev judges, what is handed over, and resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import InputError
from caviar.optim import build_averaging
from caviar.optim.average_settings import EMASettings, SWASettings
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import Job, StopRequest, isolated_randomness, judged_model, train
from caviar.train.state import State, unpack
from tests.train.conftest import each_loss, small_net
from tests.train.test_loop import Listener

EMA, SWA = EMASettings(decay=0.9), SWASettings(start=2)
STEPS_PER_EPOCH = 11


class Weights(Listener):
    """Notes the model's weights after every step and the facts of every epoch."""

    def __init__(self, model: nn.Module, stop: StopRequest | None = None, stop_at: int = -1) -> None:
        super().__init__(stop, stop_at)
        self.model, self.seen = model, list[dict[str, torch.Tensor]]()

    def on_step(self, moment: Any, loss: torch.Tensor) -> None:
        super().on_step(moment, loss)
        self.seen.append({name: p.detach().clone() for name, p in self.model.named_parameters()})


def averaged_job(make_job: Callable[..., Job], settings: Any, norm: bool = False, **changes: Any) -> Job:
    net = small_net(norm=norm, dropout=0.2)
    average = build_averaging(settings, net, 6, STEPS_PER_EPOCH if not norm else STEPS_PER_EPOCH - 1)
    return make_job(net, average=average, merge_single=norm, **changes)


def run(job: Job) -> tuple[State, Weights]:
    state, listener = State(), Weights(job.model)
    with isolated_randomness(3, job.device):
        assert train(job, state, None, [listener], StopRequest())
    return state, listener


def dev_loss(job: Job, weights: dict[str, torch.Tensor]) -> float:
    net = small_net().eval()
    net.load_state_dict(weights)
    with torch.no_grad():
        return each_loss(net(job.dev.inputs), job.dev.targets).mean().item()


def test_dev_judges_the_mean_of_the_late_epochs(make_job: Callable[..., Job]) -> None:
    job = averaged_job(make_job, SWA)
    state, listener = run(job)
    ends = [listener.seen[epoch * STEPS_PER_EPOCH - 1] for epoch in range(1, 7)]
    for number, facts in enumerate(listener.epochs, start=1):
        chosen = ends[2:number] if number > 2 else ends[number - 1 : number]
        mean = {name: torch.stack([end[name] for end in chosen]).mean(0) for name in ends[0]}
        assert facts.values[("dev", "loss")] == pytest.approx(dev_loss(job, mean), rel=1e-5), number
    assert state.best.epoch > 2
    best = {name: torch.stack([end[name] for end in ends[2 : state.best.epoch]]).mean(0) for name in ends[0]}
    for name, tensor in best.items():
        torch.testing.assert_close(state.best.weights[name], tensor)


def test_dev_judges_the_exponential_average(make_job: Callable[..., Job]) -> None:
    job = averaged_job(make_job, EMA)
    start = {name: p.detach().clone() for name, p in job.model.named_parameters()}
    _, listener = run(job)
    expected, values = start, list[float]()
    for step, weights in enumerate(listener.seen):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in weights}
        if (step + 1) % STEPS_PER_EPOCH == 0:
            values.append(dev_loss(job, expected))
    assert [facts.values[("dev", "loss")] for facts in listener.epochs] == pytest.approx(values, rel=1e-4)


def test_training_itself_does_not_notice(make_job: Callable[..., Job]) -> None:
    plain, averaged = make_job(small_net(norm=True, dropout=0.2), merge_single=True), averaged_job(make_job, EMA, True)
    run(plain)
    run(averaged)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, averaged.model.state_dict()[name])


def test_batch_norms_of_the_average_have_the_statistics_of_the_training_data(make_job: Callable[..., Job]) -> None:
    job = averaged_job(make_job, EMA, True)
    run(job)
    model = judged_model(job)
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        arriving = model[0](job.train.inputs)
    torch.testing.assert_close(model[1].running_mean, arriving.mean(0))
    torch.testing.assert_close(model[1].running_var, arriving.var(0))
    stale = job.model[1].running_mean  # type: ignore[index]
    assert not torch.allclose(stale, arriving.mean(0), rtol=1e-3)


def test_patience_waits_for_the_average(make_job: Callable[..., Job]) -> None:
    job = averaged_job(make_job, SWASettings(start=4), patience=1, schedule=lambda step: 0.0)
    state, listener = run(job)
    assert state.epoch - 1 == 5
    assert [facts.best for facts in listener.epochs] == [True] + [False] * 4
    assert run(make_job(patience=1, schedule=lambda step: 0.0))[0].epoch - 1 == 2


@pytest.mark.parametrize("stop_at", [1, 10, 25, 40])
@pytest.mark.parametrize("settings", [EMA, EMASettings(every=4, warm_up=False), SWA], ids=str)
def test_stop_and_resume_equals_never_stopping(
    make_job: Callable[..., Job], tmp_path: Path, settings: Any, stop_at: int
) -> None:
    whole = averaged_job(make_job, settings, True)
    expected, _ = run(whole)
    first, stop = averaged_job(make_job, settings, True), StopRequest()
    with isolated_randomness(3, first.device):
        listener = Listener(stop, stop_at)
        assert not train(first, State(), Checkpoints(tmp_path), [listener], stop)
    again = averaged_job(make_job, settings, True)
    assert again.average is not None
    with isolated_randomness(99, again.device):
        kept = read_checkpoint(Checkpoints(tmp_path).path(stop_at))
        state = unpack(kept, again.model, again.optimizer, again.device, again.average.average)
        assert train(again, state, None, [listener], StopRequest())
    for one, other in ((whole.model, again.model), (judged_model(whole), judged_model(again))):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert state.best.epoch == expected.best.epoch
    assert all(torch.equal(state.best.weights[name], tensor) for name, tensor in expected.best.weights.items())


def test_a_checkpoint_without_the_average_is_refused(make_job: Callable[..., Job], tmp_path: Path) -> None:
    plain, job = make_job(), averaged_job(make_job, EMA)
    assert train(plain, State(), Checkpoints(tmp_path), [], StopRequest())
    assert job.average is not None
    kept = read_checkpoint(Checkpoints(tmp_path).path(66))
    with pytest.raises(InputError, match="lacks what a resume needs"):
        unpack(kept, job.model, job.optimizer, job.device, job.average.average)
