"""A run that trains many models at once: its members, how they are run, and what comes of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from caviar.core.errors import InputError, RunError
from caviar.core.examples import SplitName
from caviar.core.jsonable import jsonable
from caviar.core.seeds import generator_for
from caviar.nn import adapt_model, build_loss, build_model, has_batch_norm, load_callable, looks_at_data, resolve_loss
from caviar.nn.settings import CodeSettings, ConvNetSettings, MLPSettings
from caviar.optim import average_times, build_momentum_schedule, build_plateaus, build_schedule, momentum_of
from caviar.optim.lists import Number
from caviar.optim.schedule_settings import PlateauSettings
from caviar.population import Cohort, Layout, Population, Timing, candidates, choose
from caviar.population.memory import Memory, describe_memory, fitting, predict_memory
from caviar.population.modules import copy_template, stack_weights
from caviar.population.population import check_values, member_draws
from caviar.population.settings import HYPERPARAMETERS
from caviar.recipe import Recipe
from caviar.train.batching import batch_bounds
from caviar.train.folds import Folds, evaluate_views
from caviar.train.judge import evaluate_members
from caviar.train.members import MembersJob, MembersState, Trial, trial_steps
from caviar.workflow.plan import ROWS_TO_ADAPT_TO, Plan, example_batch


def lay_out(plan: Plan) -> tuple[Plan, list[str], list[Timing]]:
    """Return the plan with the way to run its population chosen, sentences about it, and what was timed.

    The choice stands in the resolved recipe, so that a rerun or a resume repeats it.
    """
    if plan.recipe.population.is_one:
        return plan, [], []
    laid = lay_out_members(plan)
    said = f"{_how_many(plan)}, {laid.layout}; {describe_memory(laid.memory)}"
    return laid.plan, [said], laid.timings


class LaidOut(NamedTuple):
    """A plan whose recipe says how its members are run, and how that was chosen."""

    plan: Plan
    layout: Layout
    memory: Memory
    timings: list[Timing]


def lay_out_members(plan: Plan) -> LaidOut:
    """Choose the way to run a population, be it of a single member."""
    settings = plan.recipe.population
    check_together(plan.recipe)
    job, population = members_job(plan), make_population(plan)
    steps = trial_steps(job, first_state(settings.trials))
    inputs, targets = steps[0].inputs, steps[0].targets
    layouts = [found for found in candidates(settings.trials, plan.device) if _wanted(found, plan.recipe)]
    layouts = fitting(population.cohort, layouts or [_stated(plan.recipe)], inputs, targets)
    stated = "auto" not in (settings.executor, settings.size, settings.threads)
    timings: list[Timing] = []
    if stated or len(layouts) == 1:
        layout = _stated(plan.recipe) if stated else layouts[0]
    else:
        layout, timings = choose(population.cohort, steps, layouts)
    chosen = {"executor": layout.kind, "size": layout.size, "threads": layout.threads}
    recipe = plan.recipe.model_copy(update={"population": settings.model_copy(update=chosen)})
    memory = predict_memory(population.cohort, layout, inputs, targets)
    return LaidOut(replace(plan, recipe=recipe), layout, memory, timings)


def _how_many(plan: Plan) -> str:
    settings, rows = plan.recipe.population, len(plan.splits.train)
    if plan.folds is None:
        return f"{settings.members} members"
    members = f"{settings.members} members, each" if settings.members > 1 else "one member"
    return f"{settings.trials} models: {members} without each of {settings.folds} folds and on all {rows:,} rows"


def _wanted(layout: Layout, recipe: Recipe) -> bool:
    settings = recipe.population
    asked = ((settings.executor, layout.kind), (settings.size, layout.size), (settings.threads, layout.threads))
    return all(wanted in ("auto", found) for wanted, found in asked)


def _stated(recipe: Recipe) -> Layout:
    settings = recipe.population
    kind = "singles" if settings.executor == "auto" else settings.executor
    threads = settings.threads if isinstance(settings.threads, int) else 1
    size = settings.size if isinstance(settings.size, int) else -(-settings.trials // threads)
    return Layout(str(kind), min(size, settings.trials), threads)


def check_together(recipe: Recipe) -> None:
    """Refuse what trains one model at a time."""
    recipe.population.check()
    alone = {
        "training.care = true nurses one model": recipe.training.care,
        "device.compile = true compiles one model": recipe.device.compile,
        f"optimizer.name = {recipe.optimizer.name!r} trains one model": recipe.optimizer.name in ("lbfgs", "newton"),
    }
    for what, found in alone.items():
        if found:
            raise InputError(f"{what} at a time. Change it, or train with population.members = 1.")


def make_population(plan: Plan, trials: Sequence[int] | None = None) -> Population:
    """Return the members as they are before the first step: weights and draws follow (seed, trial).

    trials: the members' numbers in the whole run, where they are not all of it.
    """
    recipe, settings = plan.recipe, plan.recipe.population
    numbers = range(settings.trials) if trials is None else trials
    values = check_values(settings.trial_lists(), settings.trials)
    gains = values.pop("init_gain", None)
    modules = []
    for place, trial in enumerate(numbers):
        gain = None if gains is None else float(gains[place])
        planned = trial == 0 and gain is None and plan.folds is None
        modules.append(plan.model if planned else _member_module(plan, trial, gain))
    counts = _class_counts(plan)
    loss = resolve_loss(recipe.loss, plan.raw.task, len(plan.raw.classes) or None)
    weights = build_loss(loss, plan.raw.task, class_counts=counts).keywords.get("class_weights")  # type: ignore[attr-defined]
    clip = recipe.training.clip_norm
    cohort = Cohort(
        template=copy_template(modules[0]),
        weights=stack_weights(modules),
        optimizer=recipe.optimizer,
        loss=loss,
        draws=tuple(member_draws(recipe.seed, trial) for trial in numbers),
        values=values,
        class_weights=weights,
        regularization=recipe.regularization,
        clip_norm=clip if isinstance(clip, float) else None,
        autocast=recipe.device.precision == "bf16",
        average=recipe.average.name != "none",
    )
    return Population.of(cohort, range(settings.trials))


def _member_module(plan: Plan, trial: int, gain: float | None) -> nn.Module:
    """Return the first weights of one trial: drawn anew for caviar's networks and code, copied for a given module."""
    recipe, prepared = plan.recipe, plan.prepared
    generator = generator_for(recipe.seed, "trial", trial, "weights")
    if isinstance(recipe.model, CodeSettings):
        return load_callable(recipe.model.name, recipe.model.arguments, generator).to(plan.device)
    if not isinstance(recipe.model, MLPSettings | ConvNetSettings):
        if gain is not None:
            raise InputError("population.init_gain is for caviar's own networks; this module brings its weights.")
        return plan.model
    settings = recipe.model if gain is None else recipe.model.model_copy(update={"init_gain": gain})
    outputs = len(plan.raw.classes) if plan.raw.task == "classification" else 1
    cardinalities = tuple(getattr(prepared.preprocess, "cardinalities", ()))
    model = build_model(settings, prepared.input_shape, outputs, generator, cardinalities).to(plan.device)
    if looks_at_data(settings):
        adapt_model(settings, model, _examples_of(plan, trial))
    return model


def _examples_of(plan: Plan, trial: int) -> torch.Tensor:
    """Return training inputs for initial weights that look at data: of a fold's trial, only rows that it keeps."""
    if plan.folds is None:
        return plan.prepared.prepare(example_batch(plan.prepared, plan.device, ROWS_TO_ADAPT_TO))
    view = plan.folds.views[plan.folds.view_of(trial)]
    rows = view.train.spread(len(view.train))
    if not plan.folds.is_whole(trial):
        rows = rows[~torch.isin(rows, plan.folds.held_out[plan.folds.view_of(trial)])]
    places = torch.linspace(0, len(rows) - 1, min(ROWS_TO_ADAPT_TO, len(rows)), dtype=torch.float64).long()
    return view.prepare(view.train.inputs.index_select(0, rows[places]).to(plan.device))


def members_job(plan: Plan) -> MembersJob:
    """Turn a plan into what the loop of a population needs."""
    recipe, training = plan.recipe, plan.recipe.training
    epochs, batch_size, patience = training.epochs, training.batch_size, training.patience
    assert isinstance(epochs, int)
    assert isinstance(batch_size, int)
    assert training.metric != "auto"
    examples = plan.prepared.examples
    merge_single = has_batch_norm(plan.model)
    per_epoch = len(batch_bounds(len(examples["train"]), batch_size, merge_single=merge_single))
    values = check_values(recipe.population.trial_lists(), recipe.population.trials)
    rate: Any = values.get("learning_rate", recipe.optimizer.learning_rate)
    momentum: Any = values.get("momentum", values.get("beta1", momentum_of(recipe.optimizer)))
    schedule: Callable[[int], Number]
    if isinstance(recipe.schedule, PlateauSettings):
        rates = torch.as_tensor(rate, dtype=torch.float64).expand(recipe.population.trials).tolist()
        schedule = build_plateaus(recipe.schedule, rates, epochs * per_epoch, training.metric)
    else:
        schedule = build_schedule(recipe.schedule, rate, epochs * per_epoch, per_epoch, training.metric)
    return MembersJob(
        schedule=schedule,
        loss_per_example=build_loss(recipe.loss, plan.raw.task, "none", class_counts=_class_counts(plan)),
        train=examples["train"],
        dev=examples["dev"],
        prepare=plan.prepared.prepare,
        device=plan.device,
        task=plan.raw.task,
        metric=training.metric,
        epochs=epochs,
        batch_size=batch_size,
        merge_single=merge_single,
        patience=patience if isinstance(patience, int) else None,
        checkpoint_seconds=training.checkpoint_seconds,
        seed=recipe.seed,
        augment=plan.prepared.augment,
        momentum=build_momentum_schedule(recipe.schedule, momentum, epochs * per_epoch),
        example_weights=None if plan.folds is None else plan.folds.weights(recipe.population.trials),
        folds=plan.folds,
        average=average_times(recipe.average, epochs, per_epoch),
    )


def first_state(trials: int) -> MembersState:
    """Return the state of a run that has not begun."""
    return MembersState([Trial() for _ in range(trials)])


def _class_counts(plan: Plan) -> list[int] | None:
    if plan.raw.task != "classification":
        return None
    labels = torch.from_numpy(plan.raw.targets[plan.splits.train])
    counts: list[int] = torch.bincount(labels, minlength=len(plan.raw.classes)).tolist()
    return counts


def best_trial(state: MembersState, metric: str, folds: Folds | None = None) -> int:
    """Return the trial that was best on dev; with folds, of those trained on all rows that whose folds were best.

    Raises RunError when every member diverged before its first epoch ended.
    """
    known = [number for number, trial in enumerate(state.trials) if not math.isnan(trial.best)]
    if folds is not None:
        known = [number for number in known if folds.is_whole(number)]
    if not known:
        raise RunError(
            f"{'a fold of ' * (folds is not None)}every member diverged in its first epoch, so there is no model to "
            "hand over. Lower "
            "optimizer.learning_rate, or limit the gradient with training.clip_norm."
        )
    sign = 1 if metric == "loss" else -1
    return min(known, key=lambda number: sign * state.trials[number].best)


def describe_members(plan: Plan, job: MembersJob, state: MembersState) -> dict[str, Any]:
    """Return what became of each trial, and the spread over members (folds) of what they reach on dev and test."""
    rows = judged_by_folds(member_rows(plan, job, state), job, state)
    if job.folds is None:
        return summarise(rows, job)
    return summarise_folds(rows, job, best_trial(state, job.metric, job.folds) // len(job.folds.views))


def member_rows(plan: Plan, job: MembersJob, state: MembersState) -> list[dict[str, Any]]:
    """Return what became of each trial: its fate, its hyperparameters, and what its best weights reach."""
    known = [number for number, trial in enumerate(state.trials) if trial.best_epoch]
    population = make_population(plan)
    index = torch.tensor(known, dtype=torch.int64)
    weights = {name: tensor[index].to(plan.device) for name, tensor in state.best_weights.items()}
    cohort = replace(
        population.cohort,
        weights=weights,
        average=False,
        draws=tuple(population.cohort.draws[number] for number in known),
        values={name: value[index] for name, value in population.cohort.values.items()},
    )
    settings = plan.recipe.population
    judged = Population.of(cohort, known)
    if known:
        judged.prepare(trial_steps(job, first_state(settings.trials), 1), Layout("singles", len(known)))
    name = "accuracy" if job.task == "classification" else "r2"
    splits: tuple[SplitName, ...] = ("dev", "test") if known else ()
    found = {split: _judge(plan, job, judged, known, split) for split in splits}
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(state.trials):
        row: dict[str, Any] = {"trial": number, "fate": trial.fate, "best_epoch": trial.best_epoch}
        if job.folds is not None:
            fold: int | str = "all" if job.folds.is_whole(number) else job.folds.view_of(number)
            row |= {"member": number // settings.views, "fold": fold}
        row |= {key: values[number] for key, values in settings.trial_lists().items()}
        if trial.best_epoch:
            place = known.index(number)
            for split, (loss, metric) in found.items():
                row |= {f"{split}_loss": float(loss[place]), f"{split}_{name}": float(metric[place])}
        rows.append(row)
    return rows


def _judge(
    plan: Plan, job: MembersJob, judged: Population, known: Sequence[int], split: SplitName
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and metric of each known trial on what judges it; folds take the place of dev."""
    folds = job.folds
    if folds is None:
        return evaluate_members(job, judged, plan.prepared.examples[split])
    if split == "dev":
        return evaluate_views(job, judged, folds, known, lambda view: view.train, folds.held_out)
    rows = [view.test.spread(len(view.test)) for view in folds.views]
    return evaluate_views(job, judged, folds, known, lambda view: view.test, rows)


def summarise(rows: Sequence[dict[str, Any]], job: MembersJob) -> dict[str, Any]:
    """Return what a run's summary says of its trials: each of them, and the spread of all."""
    name = "accuracy" if job.task == "classification" else "r2"
    chosen_by = "dev_loss" if job.metric == "loss" else f"dev_{name}"
    return {"trials": jsonable(rows), "spread": jsonable(_spreads(rows, name)), "chosen_by": chosen_by}


def judged_by_folds(rows: list[dict[str, Any]], job: MembersJob, state: MembersState) -> list[dict[str, Any]]:
    """Return rows in which a trial on all rows, which has no dev rows of its own, has the mean over folds instead."""
    name = "accuracy" if job.task == "classification" else "r2"
    for number, row in enumerate(rows if job.folds is not None else ()):
        if job.folds is not None and job.folds.is_whole(number):
            for key in ("dev_loss", f"dev_{name}"):
                row.pop(key, None)
            row["dev_loss" if job.metric == "loss" else f"dev_{name}"] = state.trials[number].best
    return rows


def summarise_folds(rows: Sequence[dict[str, Any]], job: MembersJob, best: int) -> dict[str, Any]:
    """Return what a run's summary says of its folds: each trial, the best member's spread over folds, and every one's.

    best: the member that is handed over.
    """
    name = "accuracy" if job.task == "classification" else "r2"
    chosen_by = "dev_loss" if job.metric == "loss" else f"dev_{name}"
    return jsonable({"trials": rows, "chosen_by": chosen_by, **_over_folds(rows, name, best)})  # type: ignore[no-any-return]


def _over_folds(rows: Sequence[dict[str, Any]], name: str, best: int) -> dict[str, Any]:
    """Return the spread over folds, of the best member and of each."""
    members: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(row["member"], []).append(row)
    spreads = {member: _spreads([row for row in own if row["fold"] != "all"], name) for member, own in members.items()}
    found = [
        {
            "member": member,
            **{key: value for key, value in members[member][0].items() if _varies(key)},
            "spread": spread,
        }
        for member, spread in spreads.items()
    ]
    return {"spread": spreads[best], "cross_validation": {"folds": len(members[best]) - 1, "members": found}}


def _varies(key: str) -> bool:
    """Whether a row's key is one of those that members differ in."""
    return key in HYPERPARAMETERS or "." in key


def _spreads(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return {key: _spread([row[key] for row in rows if key in row], name in key) for key in _keys(rows, name)}


def _keys(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    wanted = [f"{split}_{what}" for split in ("dev", "test") for what in (name, "loss")]
    return [key for key in wanted if any(key in row for row in rows)]


def _spread(values: list[float], grows: bool) -> dict[str, float]:
    numbers = torch.tensor(values, dtype=torch.float64)
    low, high = float(numbers.min()), float(numbers.max())
    return {
        "mean": float(numbers.mean()),
        "std": float(numbers.std()) if len(values) > 1 else 0.0,
        "best": high if grows else low,
        "worst": low if grows else high,
        "members": len(values),
    }


__all__ = [
    "best_trial",
    "describe_members",
    "first_state",
    "judged_by_folds",
    "lay_out",
    "lay_out_members",
    "make_population",
    "member_rows",
    "members_job",
    "summarise",
    "summarise_folds",
]
