"""The training loop, to be read aloud."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from caviar.core.columns import Task
from caviar.core.errors import DivergedError
from caviar.core.examples import Examples
from caviar.core.observer import EpochFacts, Moment, Observer
from caviar.core.seeds import epoch_order, generator_for
from caviar.nn.regularise import Regularizer
from caviar.optim import Plateau, clip_gradients, needs_closure, second_order_step, set_learning_rate, set_momentum
from caviar.optim.lists import Number
from caviar.train.batching import batch_bounds
from caviar.train.checkpoints import Checkpoint, Checkpoints
from caviar.train.evaluate import PerExampleLoss, Prepare, evaluate
from caviar.train.state import Metric, State, improves, pack, remember_best

MID_EPOCH_FACTOR = 6
MID_EPOCH_SECONDS = 1.0
"""In a long epoch, save when the last checkpoint is older than factor * `checkpoint_seconds` + seconds."""


@dataclass(frozen=True)
class Job:
    """All that one training run consists of; nothing in it is "auto" any more.

    loss: mean over the batch, from (outputs, targets); loss_per_example: the same, one value an example.
    prepare: from stored inputs of a batch to the network's input, on the device.
    augment: what stored inputs and targets of a training batch go through before, drawing from the generator; or None.
    schedule: learning rate at a step counted from 0; momentum: the same for momentum, where it moves.
    patience, clip_norm: None for never. regularizer: adds penalties to gradients and keeps weights within limits.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    loss_per_example: PerExampleLoss
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], Number]
    train: Examples
    dev: Examples
    prepare: Prepare
    device: torch.device
    task: Task
    metric: Metric
    epochs: int
    batch_size: int
    merge_single: bool
    patience: int | None
    clip_norm: float | None
    autocast: bool
    compile: bool
    checkpoint_seconds: float
    seed: int
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None
    momentum: Callable[[int], Number] | None = None
    regularizer: Regularizer | None = None


@dataclass
class StopRequest:
    """Set `requested` (from a signal handler, say) and the loop finishes its step, saves and returns."""

    requested: bool = False


@dataclass
class _Clock:
    saved: float = field(default_factory=time.monotonic)


def train(
    job: Job, state: State, checkpoints: Checkpoints | None, observers: Sequence[Observer], stop: StopRequest
) -> bool:
    """Train from `state` on; return True when done, False when a stop was requested (the state is saved).

    The model is left with its last weights; the best ones are in `state.best`. A loss or weight that is not finite
    ends the run with `DivergedError` after the epoch, and that state is never called good.
    """
    bounds = batch_bounds(len(job.train), job.batch_size, merge_single=job.merge_single)
    parameters = [p for p in job.model.parameters() if p.requires_grad]
    network = torch.compile(job.model) if job.compile else job.model
    autocast = _autocast(job)
    second_order = needs_closure(job.optimizer)
    if isinstance(job.schedule, Plateau) and state.schedule:
        job.schedule.load(state.schedule)
    state.losses = _room_for(state.losses, len(bounds), job.device)
    clock = _Clock()
    mid_epoch = MID_EPOCH_FACTOR * job.checkpoint_seconds + MID_EPOCH_SECONDS
    if checkpoints is not None and state.step == 0:
        _save(job, state, checkpoints, observers, clock, keep=True)

    while not _is_over(job, state):
        order = _order(job, state.epoch)
        job.model.train()
        for start, end in bounds[state.batch :]:
            set_learning_rate(job.optimizer, job.schedule(state.step))
            if job.momentum is not None:
                set_momentum(job.optimizer, job.momentum(state.step))
            inputs, targets = _gather(job, order[start:end])
            if job.augment is not None:
                generator = generator_for(job.seed, "augment", state.epoch, state.batch)
                inputs, targets = job.augment(inputs, targets, generator)
            job.optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = job.loss(network(job.prepare(inputs)), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if job.regularizer is not None:
                job.regularizer.add_gradients()
            if job.clip_norm is not None:
                clip_gradients(parameters, job.clip_norm)
            if second_order:
                second_order_step(job.optimizer, partial(_forward, job, inputs, targets))
            else:
                job.optimizer.step()
            if job.regularizer is not None:
                job.regularizer.constrain()

            detached = loss.detach()
            state.losses[state.batch] = detached
            state.batch += 1
            state.step += 1
            moment = Moment(state.step, state.epoch, state.batch, len(bounds))
            for observer in observers:
                observer.on_step(moment, detached)
            if stop.requested or time.monotonic() - clock.saved > mid_epoch:
                _save(job, state, checkpoints, observers, clock)
                if stop.requested:
                    return False

        facts = _finish_epoch(job, state, bounds)
        for observer in observers:
            observer.on_epoch(facts)
        _check_finite(job, facts, state.losses)
        if checkpoints is not None:
            finished = state.epoch - 1
            log_spaced = finished & (finished - 1) == 0
            due = time.monotonic() - clock.saved >= job.checkpoint_seconds
            if log_spaced or due or stop.requested or _is_over(job, state):
                _save(job, state, checkpoints, observers, clock, keep=log_spaced)
        if stop.requested and not _is_over(job, state):
            return False
    return True


def _is_over(job: Job, state: State) -> bool:
    """Whether all epochs are done, or patience has run out."""
    return state.epoch > job.epochs or (job.patience is not None and state.waited >= job.patience)


def _forward(job: Job, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss, penalties included, and outputs of a batch: what second-order methods evaluate over and over."""
    with _autocast(job):
        outputs = job.model(job.prepare(inputs))
        loss = job.loss(outputs, targets)
    return loss if job.regularizer is None else loss + job.regularizer.penalty(), outputs


def _finish_epoch(job: Job, state: State, bounds: list[tuple[int, int]]) -> EpochFacts:
    """Evaluate dev, update the best so far, move the state to the start of the next epoch."""
    dev = evaluate(job.model, job.dev, job.prepare, job.loss_per_example, job.task, job.device)
    losses = state.losses.cpu()
    sizes = torch.tensor([end - start for start, end in bounds], dtype=torch.float64)
    train_loss = float((losses.double() * sizes).sum() / sizes.sum())
    name = "accuracy" if job.task == "classification" else "r2"
    values = {("train", "loss"): train_loss, ("dev", "loss"): dev.loss, ("dev", name): dev.metric}
    value = dev.loss if job.metric == "loss" else dev.metric
    better = improves(value, state.best, job.metric)
    if better:
        state.best.epoch, state.best.step, state.best.value = state.epoch, state.step, value
        remember_best(state.best, job.model)
    state.waited = 0 if better else state.waited + 1
    facts = EpochFacts(state.epoch, state.step, float(job.schedule(state.step - 1)), values, better)
    if isinstance(job.schedule, Plateau):
        job.schedule.observe(value)
        state.schedule = job.schedule.state()
    state.epoch += 1
    state.batch = 0
    return facts


def _check_finite(job: Job, facts: EpochFacts, losses: Tensor) -> None:
    remedy = "Lower optimizer.learning_rate, or limit the gradient with training.clip_norm."
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    if bad:
        step = facts.step - len(losses) + bad[0] + 1
        raise DivergedError(
            f"the training loss became {losses[bad[0]].item()} at step {step} (epoch {facts.epoch}, learning rate "
            f"{float(job.schedule(step - 1)):.3g}). {remedy}"
        )
    named = next((n for n, p in job.model.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if named is not None:
        raise DivergedError(f"the weights of {named} are no longer finite after epoch {facts.epoch}. {remedy}")


def _save(
    job: Job,
    state: State,
    checkpoints: Checkpoints | None,
    observers: Sequence[Observer],
    clock: _Clock,
    keep: bool = False,
) -> None:
    if checkpoints is None:
        return
    for observer in observers:
        observer.on_save(state.step)
    if state.best.weights:
        best = state.best
        checkpoints.save_best(Checkpoint(best.weights, {"epoch": best.epoch, "step": best.step}))
    checkpoints.save(state.step, pack(state, job.model, job.optimizer, job.device, keep=keep))
    clock.saved = time.monotonic()


def _order(job: Job, epoch: int) -> Tensor:
    """The stored rows in this epoch's order, on the device that holds the inputs."""
    order = epoch_order(job.seed, epoch, len(job.train))
    if job.train.rows is not None:
        order = job.train.rows.cpu().index_select(0, order)
    return order.to(job.train.inputs.device)


def _gather(job: Job, rows: Tensor) -> tuple[Tensor, Tensor]:
    inputs = job.train.inputs.index_select(0, rows)
    targets = job.train.targets.index_select(0, rows)
    if inputs.device == job.device:
        return inputs, targets
    return inputs.to(job.device, non_blocking=True), targets.to(job.device, non_blocking=True)


def _room_for(losses: Tensor, num_batches: int, device: torch.device) -> Tensor:
    room = torch.zeros(num_batches, device=device)
    room[: len(losses)] = losses
    return room


@contextlib.contextmanager
def isolated_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators inside the block and put the caller's states back after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _autocast(job: Job) -> contextlib.AbstractContextManager[object]:
    if job.autocast:
        return torch.autocast(job.device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
