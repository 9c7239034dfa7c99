import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import RunError
from caviar.core.examples import Examples
from caviar.core.observer import EpochFacts, Moment
from caviar.core.seeds import epoch_order
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import Job, StopRequest, isolated_randomness, train
from caviar.train.state import State, unpack
from tests.train.conftest import mean_loss, small_examples, small_net


class Listener:
    def __init__(self, stop: StopRequest | None = None, stop_at: int = -1) -> None:
        self.steps: list[Moment] = []
        self.epochs: list[EpochFacts] = []
        self.stop, self.stop_at = stop, stop_at

    def on_step(self, moment: Moment, loss: Tensor) -> None:
        self.steps.append(moment)
        if self.stop is not None and moment.step == self.stop_at:
            self.stop.requested = True

    def on_epoch(self, facts: EpochFacts) -> None:
        self.epochs.append(facts)

    def on_save(self, step: int) -> None:
        assert step == (self.steps[-1].step if self.steps else step)


def run(job: Job, folder: Path | None = None, state: State | None = None) -> tuple[State, Listener]:
    listener, state = Listener(), state or State()
    with isolated_randomness(3, job.device):
        assert train(job, state, Checkpoints(folder) if folder else None, [listener], StopRequest())
    return state, listener


def hand_written(job: Job, epochs: int) -> tuple[nn.Module, list[float]]:
    """The same training as anybody would write it."""
    torch.manual_seed(3)
    losses = []
    for epoch in range(1, epochs + 1):
        order = epoch_order(job.seed, epoch, len(job.train)).long()
        total = 0.0
        for batch in order.split(job.batch_size):
            for group in job.optimizer.param_groups:
                group["lr"] = job.schedule(len(losses))
            job.optimizer.zero_grad()
            loss = mean_loss(job.model(job.train.inputs[batch]), job.train.targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            job.optimizer.step()
            losses.append(loss.item())
            total += loss.item() * len(batch)
    return job.model, losses


def test_equals_a_hand_written_loop_byte_for_byte(make_job: Callable[..., Job]) -> None:
    ours, theirs = make_job(small_net(dropout=0.2)), make_job(small_net(dropout=0.2))
    run(ours)
    hand_written(theirs, 6)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_moments_and_epoch_facts(make_job: Callable[..., Job]) -> None:
    job = make_job()
    _, listener = run(job)
    assert [m.step for m in listener.steps] == list(range(1, 67))
    assert [m.batch for m in listener.steps[:11]] == list(range(1, 12))
    assert {m.num_batches for m in listener.steps} == {11}
    assert [f.epoch for f in listener.epochs] == [1, 2, 3, 4, 5, 6]
    assert listener.epochs[-1].learning_rate == job.schedule(65)
    witness = make_job()
    _, losses = hand_written(witness, 1)
    sizes = [10] * 10 + [1]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 101
    assert listener.epochs[0].values[("train", "loss")] == pytest.approx(mean, rel=1e-6)
    with torch.no_grad():
        dev = mean_loss(witness.model(witness.dev.inputs), witness.dev.targets).item()
    assert listener.epochs[0].values[("dev", "loss")] == pytest.approx(dev, rel=1e-5)


def test_rows_of_a_split_are_the_only_ones_seen(make_job: Callable[..., Job]) -> None:
    whole = small_examples(200, 5)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:60].to(torch.int32)
    picked = Examples(whole.inputs[rows.long()].clone(), whole.targets[rows.long()].clone())
    through_rows, direct = make_job(train=Examples(whole.inputs, whole.targets, rows)), make_job(train=picked)
    whole.inputs[[i for i in range(200) if i not in set(rows.tolist())]] = math.nan
    run(through_rows)
    run(direct)
    for a, b in zip(through_rows.model.parameters(), direct.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("stop_at", [1, 7, 11, 12, 37, 65])
@pytest.mark.parametrize("kind", ["adam", "sgd", "norm"])
def test_stop_and_resume_equals_never_stopping(
    make_job: Callable[..., Job], tmp_path: Path, stop_at: int, kind: str
) -> None:
    def fresh() -> Job:
        net = small_net(norm=kind == "norm", dropout=0.3)
        rules: dict[str, Any] = {"adam": torch.optim.Adam, "norm": torch.optim.AdamW}
        rule = rules.get(kind)
        optimizer = (
            rule(net.parameters(), lr=0.01) if rule else torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        )
        return make_job(net, optimizer=optimizer, merge_single=kind == "norm", metric="accuracy")

    whole = fresh()
    whole_state, whole_listener = run(whole)

    first, stop = fresh(), StopRequest()
    if kind == "norm" and stop_at > 59:
        stop_at = 59
    with isolated_randomness(3, first.device):
        assert not train(first, State(), Checkpoints(tmp_path), [Listener(stop, stop_at)], stop)
    torch.manual_seed(99)
    second = fresh()
    checkpoint, _ = Checkpoints(tmp_path).newest()
    assert checkpoint is not None
    with isolated_randomness(4, second.device):
        state = unpack(checkpoint, second.model, second.optimizer, second.device)
        assert state.step == stop_at
        listener = Listener()
        assert train(second, state, Checkpoints(tmp_path), [listener], StopRequest())
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name, tensor in whole_state.best.weights.items():
        assert torch.equal(tensor, state.best.weights[name])
    assert listener.epochs[-1] == whole_listener.epochs[-1]


def test_early_stopping_waits_and_keeps_the_best(make_job: Callable[..., Job]) -> None:
    job = make_job(epochs=60, patience=3, schedule=lambda step: 0.3)
    state, listener = run(job)
    values = [facts.values[("dev", "loss")] for facts in listener.epochs]
    best = min(range(len(values)), key=values.__getitem__)
    assert len(values) == best + 1 + 3 < 60
    assert state.best.epoch == best + 1
    assert state.best.value == values[best]
    job.model.load_state_dict(state.best.weights)
    job.model.eval()
    with torch.no_grad():
        again = mean_loss(job.model(job.dev.inputs), job.dev.targets).item()
    assert again == pytest.approx(values[best], rel=1e-5)


def test_a_loss_that_explodes_ends_the_run_and_names_the_step(make_job: Callable[..., Job], tmp_path: Path) -> None:
    net = small_net()
    job = make_job(
        net, optimizer=torch.optim.SGD(net.parameters(), lr=1.0), schedule=lambda step: 1e30 if step >= 25 else 0.01
    )
    with (
        pytest.raises(RunError, match=r"at step 2[78] \(epoch 3, learning rate 1e\+30\)"),
        isolated_randomness(3, job.device),
    ):
        train(job, State(), Checkpoints(tmp_path), [], StopRequest())
    newest, _ = Checkpoints(tmp_path).newest()
    assert newest is not None
    assert newest.data["good"]
    assert newest.data["step"] == 22


def test_clipping_bounds_the_step(make_job: Callable[..., Job]) -> None:
    net = small_net()
    before = [p.detach().clone() for p in net.parameters()]
    job = make_job(
        net, optimizer=torch.optim.SGD(net.parameters(), lr=1.0), schedule=lambda step: 1.0, clip_norm=0.001, epochs=1
    )
    run(job)
    moved = sum(float((a - b.detach()).norm() ** 2) for a, b in zip(before, net.parameters(), strict=True)) ** 0.5
    assert moved <= 11 * 0.001 * 1.001


def test_the_callers_generator_is_put_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with isolated_randomness(1, torch.device("cpu")):
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)


def test_log_spaced_epochs_are_kept(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job(epochs=20, checkpoint_seconds=1000.0)
    run(job, tmp_path)
    kept = Checkpoints(tmp_path).steps()
    assert kept == [0, 11, 22, 44, 88, 176, 220]
    assert (tmp_path / "best.safetensors").exists()
    assert read_checkpoint(tmp_path / "best.safetensors").data["epoch"] >= 1


def test_bf16_trains(make_job: Callable[..., Job]) -> None:
    _, listener = run(make_job(autocast=True, epochs=4))
    losses = [facts.values[("train", "loss")] for facts in listener.epochs]
    assert losses[-1] < losses[0]
