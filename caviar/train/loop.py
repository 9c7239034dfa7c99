"""The training loop, to be read aloud."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from caviar.core.checkpoint import Checkpoint
from caviar.core.columns import Task
from caviar.core.errors import DivergedError
from caviar.core.examples import Examples
from caviar.core.observer import EpochFacts, InsideObserver, Moment, Observer
from caviar.core.seeds import generator_for
from caviar.nn import keeps_statistics, recalibrate
from caviar.nn.regularise import Regularizer
from caviar.optim import (
    AveragedModel,
    Averaging,
    Plateau,
    clip_gradients,
    needs_closure,
    second_order_step,
    set_learning_rate,
    set_momentum,
)
from caviar.optim.lists import Number
from caviar.train.batching import batch_bounds, epoch_rows, gather
from caviar.train.checkpoints import Checkpoints
from caviar.train.evaluate import EVALUATION_BATCH, PerExampleLoss, Prepare, evaluate
from caviar.train.saving import Saver
from caviar.train.state import Metric, State, improves, pack, remember_best

MID_EPOCH_FACTOR = 6
MID_EPOCH_SECONDS = 1.0
"""In a long epoch, save when the last checkpoint is older than factor * `checkpoint_seconds` + seconds."""

RECALIBRATION_EXAMPLES = 20_000
"""The most that an average's batch norms see: a channel's mean is then known to a hundredth of its deviation."""

EXPLODED = 1e6
"""An epoch whose mean loss is so many times its first batch's loss (at least 1) has diverged, finite or not."""


@dataclass(frozen=True)
class Job:
    """All that one training run consists of; nothing in it is "auto" any more.

    loss: mean over the batch, from (outputs, targets); loss_per_example: the same, one value an example.
    prepare: from stored inputs of a batch to the network's input, on the device.
    augment: what stored inputs and targets of a training batch go through before, drawing from the generator; or None.
    schedule: learning rate at a step counted from 0; momentum: the same for momentum, where it moves.
    patience, clip_norm: None for never. regularizer: adds penalties to gradients and keeps weights within limits.
    average: of the weights; once begun, it is what dev judges and the run hands over.
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
    average: Averaging | None = None

    @property
    def averaged_model(self) -> AveragedModel | None:
        """The average itself, without when it is taken."""
        return None if self.average is None else self.average.average


@dataclass
class StopRequest:
    """Set `requested` (from a signal handler, say) and the loop finishes its step, saves and returns."""

    requested: bool = False


def train(
    job: Job, state: State, checkpoints: Checkpoints | None, observers: Sequence[Observer], stop: StopRequest
) -> bool:
    """Train from `state` on; return True when done, False when a stop was requested (the state is saved).

    The model is left with its last weights; the best ones are in `state.best`. A loss or weight that is not finite,
    or a loss that explodes, ends the run with `DivergedError` after the epoch, and that state is never called good.
    """
    with Saver(checkpoints, observers) as saver:
        if checkpoints is not None and state.step == 0:
            saver.save(0, _packed(job, state, keep=True))
            saver.wait()  # a disk that cannot take even this is better known before training
        return _train(job, state, saver, observers, stop)


def _train(job: Job, state: State, saver: Saver, observers: Sequence[Observer], stop: StopRequest) -> bool:
    bounds = batch_bounds(len(job.train), job.batch_size, merge_single=job.merge_single)
    parameters = [p for p in job.model.parameters() if p.requires_grad]
    network = torch.compile(job.model) if job.compile else job.model
    autocast = _autocast(job)
    second_order = needs_closure(job.optimizer)
    inside = [observer for observer in observers if isinstance(observer, InsideObserver)]
    if isinstance(job.schedule, Plateau) and state.schedule:
        job.schedule.load(state.schedule)
    mid_epoch = MID_EPOCH_FACTOR * job.checkpoint_seconds + MID_EPOCH_SECONDS

    while not _is_over(job, state):
        order = epoch_rows(job.train, job.seed, state.epoch)
        state.make_room(len(bounds), job.device)
        job.model.train()
        for start, end in bounds[state.batch :]:
            set_learning_rate(job.optimizer, job.schedule(state.step))
            if job.momentum is not None:
                set_momentum(job.optimizer, job.momentum(state.step))
            inputs, targets = gather(job.train, job.device, order[start:end])
            if job.augment is not None:
                generator = generator_for(job.seed, "augment", state.epoch, state.batch)
                inputs, targets = job.augment(inputs, targets, generator)
            for parameter in parameters:  # zero_grad does this too, and spends 10 microseconds on its profiler
                parameter.grad = None
            with autocast:
                loss = job.loss(network(job.prepare(inputs)), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            for watcher in inside:
                if watcher.looking:
                    watcher.on_gradients()
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
            if job.average is not None:
                job.average.after_step(job.model, state.step)
            moment = Moment(state.step, state.epoch, state.batch, len(bounds))
            for observer in observers:
                observer.on_step(moment, detached)
            if stop.requested or saver.age > mid_epoch:
                saver.save(state.step, _packed(job, state))
                if stop.requested:
                    return False

        losses = state.losses.cpu()
        facts = _finish_epoch(job, state, bounds, losses)
        for observer in observers:
            observer.on_epoch(facts)
        _check_converging(job, facts, losses)
        log_spaced = facts.epoch & (facts.epoch - 1) == 0
        if log_spaced or saver.age >= job.checkpoint_seconds or stop.requested or _is_over(job, state):
            saver.save(state.step, _packed(job, state, keep=log_spaced))
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


def _finish_epoch(job: Job, state: State, bounds: list[tuple[int, int]], losses: Tensor) -> EpochFacts:
    """Evaluate dev, update the best so far, move the state to the start of the next epoch."""
    model = judged_model(job)
    dev = evaluate(model, job.dev, job.prepare, job.loss_per_example, job.task, job.device)
    sizes = torch.tensor([end - start for start, end in bounds], dtype=torch.float64)
    train_loss = float((losses.double() * sizes).sum() / sizes.sum())
    name = "accuracy" if job.task == "classification" else "r2"
    values = {("train", "loss"): train_loss, ("dev", "loss"): dev.loss, ("dev", name): dev.metric}
    value = dev.loss if job.metric == "loss" else dev.metric
    better = improves(value, state.best, job.metric)
    if better:
        state.best.epoch, state.best.step, state.best.value = state.epoch, state.step, value
        remember_best(state.best, model)
    waits = job.average is None or job.average.begun  # patience cannot run out before the average that was asked for
    state.waited = state.waited + 1 if waits and not better else 0
    facts = EpochFacts(state.epoch, state.step, float(job.schedule(state.step - 1)), values, better, dev.confusion)
    if isinstance(job.schedule, Plateau):
        job.schedule.observe(value)
        state.schedule = job.schedule.state()
    state.epoch += 1
    state.batch = 0
    return facts


def judged_model(job: Job) -> nn.Module:
    """Return what dev judges and the run hands over: the average of the weights once there is one, or the model.

    Batch norms of an average need statistics of their own: taken anew over training examples, not augmented, that
    follow from the seed alone, and mixed, because stored order may go class by class.
    """
    if job.average is None or not job.average.begun:
        return job.model
    model = job.average.average.model
    if keeps_statistics(model):
        rows = epoch_rows(job.train, job.seed, 0)[:RECALIBRATION_EXAMPLES]
        bounds = batch_bounds(len(rows), min(EVALUATION_BATCH, len(rows)), merge_single=True)
        recalibrate(model, (job.prepare(gather(job.train, job.device, rows[start:end])[0]) for start, end in bounds))
    return model


def _check_converging(job: Job, facts: EpochFacts, losses: Tensor) -> None:
    remedy = "Lower optimizer.learning_rate, or limit the gradient with training.clip_norm."
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    if bad:
        step = facts.step - len(losses) + bad[0] + 1
        raise DivergedError(
            f"the training loss became {losses[bad[0]].item()} at step {step} (epoch {facts.epoch}, learning rate "
            f"{float(job.schedule(step - 1)):.3g}). {remedy}"
        )
    first = losses[0].item()
    if facts.values[("train", "loss")] > EXPLODED * max(1.0, first):
        raise DivergedError(
            f"the training loss grew from {first:.3g} to {losses.max().item():.3g} within epoch {facts.epoch} "
            f"(learning rate {facts.learning_rate:.3g}). {remedy}"
        )
    if math.isfinite(get_total_norm(job.model.parameters(), math.inf).item()):
        return
    named = next((n for n, p in job.model.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if named is not None:
        raise DivergedError(f"the weights of {named} are no longer finite after epoch {facts.epoch}. {remedy}")


def _packed(job: Job, state: State, *, keep: bool = False) -> Checkpoint:
    return pack(state, job.model, job.optimizer, job.device, job.averaged_model, keep=keep)


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
