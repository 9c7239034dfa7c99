"""Check a set-up before the long run: of a recipe, or of a module, data and a loss of the user's own."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.examples import Examples
from caviar.core.seeds import generator_for
from caviar.data.row_keys import row_keys
from caviar.diagnose.checks import check_codes, run_checks
from caviar.diagnose.checks_setup import Batch, CheckReport, Setup
from caviar.nn import build_regularizer
from caviar.optim import build_optimizer
from caviar.recipe import Recipe, Sparse, merge
from caviar.train.loop import Job
from caviar.workflow.check_given import Augment, Loss, count_repeats, given_setup, held_by
from caviar.workflow.check_sample import DEV_ROWS, TRAIN_ROWS, fitting
from caviar.workflow.job import build_job
from caviar.workflow.plan import OVERLAP_ROWS, Plan, make_plan, torch_as_before, updates
from caviar.workflow.randomness import randomness_as_before
from caviar.workflow.show import checking_progress, notes_console, print_notes, reading_progress
from caviar.workflow.source import InMemory
from caviar.workflow.train import describe, from_settings


def check(
    model: Any,
    data: Any = None,
    loss: Loss | None = None,
    *,
    target: Any = None,
    dev: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    augment: Augment | None = None,
    batch_size: int | None = None,
    settings: Mapping[str, Any] | Recipe | str | Path | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    mute: Collection[str] = (),
    allow_code: bool = False,
    progress: bool = True,
) -> CheckReport:
    """Check a training set-up before the long run, and return what each check came to.

    `check(model, data, loss)`: a module of your own, with data and a loss as your loop uses them. It is called as
    loss(model(inputs), targets). Model, optimiser, data and the global random streams are left as they were.
    `check("adult_train.csv", target="income")`, `check(recipe)`: what `caviar.train` would do with the same arguments.
    `check(model, "adult_train.csv", target="income")`: the same with a module of your own.

    Args:
        model: an nn.Module; or the data or recipe, as for `caviar.train`.
        data: with a loss: a pair (inputs, targets) of tensors or arrays, a Dataset of pairs, or anything that gives
            batches of pairs, such as a DataLoader. Some 2,000 examples of it are looked at.
        loss: (outputs, targets) -> one number.
        target: the column to predict, or the targets (without a loss).
        dev: development data, in the form of `data`.
        optimizer: yours, over the model's parameters: its rate and what it holds are checked too.
        penalty: of a model, what the long run adds to the loss.
        augment: (inputs, targets, generator) -> (inputs, targets), what training batches go through first.
        batch_size: of the long run; a DataLoader tells its own.
        settings, device, allow_code: as for `caviar.train` (without a loss).
        seed: decides samples, shuffles and everything else that is random (0).
        mute: codes of checks that shall not run.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the model cannot take the data, the loss is no single number, or a code in `mute` is unknown.
    """
    check_codes(mute)
    console = notes_console(quiet=not progress)
    with randomness_as_before(), torch_as_before():
        if loss is not None:
            _refuse(target=target, settings=settings, device=device)
            setup = _given(model, data, loss, dev, optimizer, penalty, augment, batch_size, seed or 0)
        else:
            _refuse(optimizer=optimizer, penalty=penalty, augment=augment, batch_size=batch_size)
            source, module = (data, model) if isinstance(model, nn.Module) else (model, None)
            if module is None and data is not None:
                raise InputError(
                    f"model={type(model).__name__} is no torch.nn.Module. Give check(model, data, loss), or "
                    "check(data, target=...) for a network of caviar's."
                )
            sparse, memory = describe(source, target, dev)
            changes = merge(
                from_settings(settings or {}), updates(seed=seed, device=None if device is None else str(device))
            )
            setup = _planned(merge(sparse, changes), memory, module, allow_code, console)
        return _report(setup, mute, console)


def check_recipe(sparse: Sparse, mute: Collection[str], *, allow_code: bool, console: Console) -> CheckReport:
    """Check what a sparse recipe resolves to; `check` for the command line."""
    check_codes(mute)
    with randomness_as_before(), torch_as_before():
        return _report(_planned(sparse, None, None, allow_code, console), mute, console)


def _refuse(**given: Any) -> None:
    """Refuse arguments that belong to the other form of the call."""
    if named := [name for name, value in given.items() if value is not None]:
        raise InputError(
            f"{' and '.join(named)} cannot be used here. check(model, data, loss) takes dev, optimizer, penalty, "
            "augment and batch_size; check(data) without a loss takes target, dev, settings and device."
        )


def _given(model: Any, data: Any, loss: Loss, *rest: Any) -> Setup:
    dev, optimizer, penalty, augment, batch_size, seed = rest
    if not isinstance(model, nn.Module):
        raise InputError(f"model={type(model).__name__} is no torch.nn.Module. Give check(model, data, loss).")
    if data is None or not callable(loss):
        raise InputError("check(model, data, loss) needs data, and a loss to be called as loss(outputs, targets).")
    return given_setup(
        model,
        data,
        loss,
        dev=dev,
        optimizer=optimizer,
        penalty=penalty,
        augment=augment,
        batch_size=batch_size,
        seed=seed,
    )


def _report(setup: Setup, mute: Collection[str], console: Console) -> CheckReport:
    with checking_progress(console) as show:
        return CheckReport(run_checks(setup, mute, show))


def _planned(
    sparse: Sparse, memory: InMemory | None, module: nn.Module | None, allow_code: bool, console: Console
) -> Setup:
    with reading_progress(console) as progress:
        plan = make_plan(sparse, memory, module, allow_code=allow_code, progress=progress)
    print_notes(console, plan.notices)
    return setup_of(plan)


def setup_of(plan: Plan) -> Setup:
    """Return a plan as a set-up to check: the network that would be trained, and samples of what it would be given."""
    job, recipe = build_job(plan), plan.recipe
    train, augmented = _sample(job, job.train, TRAIN_ROWS)
    dev, _ = _sample(job, job.dev, DEV_ROWS)
    regularization = recipe.regularization
    penalised = regularization.l1 > 0 or regularization.l2 > 0

    def penalty(model: nn.Module) -> Tensor:
        regularizer = build_regularizer(regularization, model)
        assert regularizer is not None
        return regularizer.penalty()

    return Setup(
        plan.model,
        job.loss,
        train,
        dev,
        optimizer=lambda model: build_optimizer(recipe.optimizer, model),
        held=held_by(job.optimizer, plan.model),
        penalty=penalty if penalised else None,
        augmented=augmented,
        batch_size=job.batch_size,
        repeats=count_repeats(row_keys(plan.raw), plan.splits) if len(plan.raw) <= OVERLAP_ROWS else None,
        seed=recipe.seed,
    )


def _sample(job: Job, examples: Examples, most: int) -> tuple[Batch, Batch | None]:
    """Return some examples as the network takes them, and the same augmented where the run augments."""
    generator = generator_for(job.seed, "check sample", most)
    count = min(most, fitting(examples.inputs[:1]))
    chosen = torch.randperm(len(examples), generator=generator)[:count].sort().values
    rows = chosen if examples.rows is None else examples.rows.cpu()[chosen].long()
    rows = rows.to(examples.inputs.device)
    inputs = examples.inputs.index_select(0, rows).to(job.device)
    targets = examples.targets.index_select(0, rows).to(job.device)
    plain = Batch(job.prepare(inputs), targets)
    if job.augment is None:
        return plain, None
    changed, labels = job.augment(inputs.clone(), targets.clone(), generator)
    return plain, Batch(job.prepare(changed), labels)
