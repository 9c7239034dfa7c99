"""A run that trains many models at once: its members, how they are run, and what comes of them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from caviar.core.errors import InputError, RunError
from caviar.core.jsonable import jsonable
from caviar.core.seeds import generator_for
from caviar.nn import adapt_model, build_loss, build_model, has_batch_norm, load_callable, looks_at_data, resolve_loss
from caviar.nn.settings import CodeSettings, ConvNetSettings, MLPSettings
from caviar.optim import build_momentum_schedule, build_schedule, momentum_of
from caviar.optim.schedule_settings import PlateauSettings
from caviar.population import Cohort, Layout, Population, Timing, candidates, choose
from caviar.population.memory import describe_memory, fitting, predict_memory
from caviar.population.modules import copy_template, stack_weights
from caviar.population.population import check_values, member_draws
from caviar.recipe import Recipe
from caviar.train.batching import batch_bounds
from caviar.train.members import MembersJob, MembersState, Trial, evaluate_members, trial_steps
from caviar.workflow.plan import ROWS_TO_ADAPT_TO, Plan, example_batch


def lay_out(plan: Plan) -> tuple[Plan, list[str], list[Timing]]:
    """Return the plan with the way to run its population chosen, sentences about it, and what was timed.

    The choice stands in the resolved recipe, so that a rerun or a resume repeats it.
    """
    settings = plan.recipe.population
    if settings.is_one:
        return plan, [], []
    check_together(plan.recipe)
    job, population = members_job(plan), make_population(plan)
    steps = trial_steps(job, first_state(settings.members))
    inputs, targets = steps[0].inputs, steps[0].targets
    layouts = [found for found in candidates(settings.members, plan.device) if _wanted(found, plan.recipe)]
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
    sentences = [f"{settings.members} members, {layout}; {describe_memory(memory)}"]
    return replace(plan, recipe=recipe), sentences, timings


def _wanted(layout: Layout, recipe: Recipe) -> bool:
    settings = recipe.population
    asked = ((settings.executor, layout.kind), (settings.size, layout.size), (settings.threads, layout.threads))
    return all(wanted in ("auto", found) for wanted, found in asked)


def _stated(recipe: Recipe) -> Layout:
    settings = recipe.population
    kind = "singles" if settings.executor == "auto" else settings.executor
    threads = settings.threads if isinstance(settings.threads, int) else 1
    size = settings.size if isinstance(settings.size, int) else -(-settings.members // threads)
    return Layout(kind, min(size, settings.members), threads)


def check_together(recipe: Recipe) -> None:
    """Refuse what trains one model at a time."""
    recipe.population.check()
    alone = {
        "schedule.name = 'plateau' listens to one model": isinstance(recipe.schedule, PlateauSettings),
        f"average.name = {recipe.average.name!r} averages one model": recipe.average.name != "none",
        "training.care = true nurses one model": recipe.training.care,
        "device.compile = true compiles one model": recipe.device.compile,
        f"optimizer.name = {recipe.optimizer.name!r} trains one model": recipe.optimizer.name in ("lbfgs", "newton"),
    }
    for what, found in alone.items():
        if found:
            raise InputError(f"{what} at a time. Change it, or train with population.members = 1.")


def make_population(plan: Plan) -> Population:
    """Return the members as they are before the first step: weights and draws follow (seed, trial)."""
    recipe, settings = plan.recipe, plan.recipe.population
    values = check_values(settings.lists(), settings.members)
    gains = values.pop("init_gain", None)
    modules = []
    for trial in range(settings.members):
        gain = None if gains is None else float(gains[trial])
        modules.append(plan.model if trial == 0 and gain is None else _member_module(plan, trial, gain))
    counts = _class_counts(plan)
    loss = resolve_loss(recipe.loss, plan.raw.task, len(plan.raw.classes) or None)
    weights = build_loss(loss, plan.raw.task, class_counts=counts).keywords.get("class_weights")  # type: ignore[attr-defined]
    clip = recipe.training.clip_norm
    cohort = Cohort(
        template=copy_template(modules[0]),
        weights=stack_weights(modules),
        optimizer=recipe.optimizer,
        loss=loss,
        draws=tuple(member_draws(recipe.seed, trial) for trial in range(settings.members)),
        values=values,
        class_weights=weights,
        regularization=recipe.regularization,
        clip_norm=clip if isinstance(clip, float) else None,
        autocast=recipe.device.precision == "bf16",
    )
    return Population.of(cohort, range(settings.members))


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
        adapt_model(settings, model, prepared.prepare(example_batch(prepared, plan.device, ROWS_TO_ADAPT_TO)))
    return model


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
    values = check_values(recipe.population.lists(), recipe.population.members)
    rate: Any = values.get("learning_rate", recipe.optimizer.learning_rate)
    momentum: Any = values.get("momentum", values.get("beta1", momentum_of(recipe.optimizer)))
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
    )


def first_state(members: int) -> MembersState:
    """Return the state of a run that has not begun."""
    return MembersState([Trial() for _ in range(members)])


def _class_counts(plan: Plan) -> list[int] | None:
    if plan.raw.task != "classification":
        return None
    labels = torch.from_numpy(plan.raw.targets[plan.splits.train])
    counts: list[int] = torch.bincount(labels, minlength=len(plan.raw.classes)).tolist()
    return counts


def best_trial(state: MembersState, metric: str) -> int:
    """Return the trial that was best on dev.

    Raises RunError when every member diverged before its first epoch ended.
    """
    known = [number for number, trial in enumerate(state.trials) if not math.isnan(trial.best)]
    if not known:
        raise RunError(
            "every member diverged in its first epoch, so there is no model to hand over. Lower "
            "optimizer.learning_rate, or limit the gradient with training.clip_norm."
        )
    sign = 1 if metric == "loss" else -1
    return min(known, key=lambda number: sign * state.trials[number].best)


def describe_members(plan: Plan, job: MembersJob, state: MembersState) -> dict[str, Any]:
    """Return what became of each trial, and the spread over members of what they reach on dev and test."""
    known = [number for number, trial in enumerate(state.trials) if trial.best_epoch]
    population = make_population(plan)
    index = torch.tensor(known, dtype=torch.int64)
    weights = {name: tensor[index].to(plan.device) for name, tensor in state.best_weights.items()}
    cohort = replace(
        population.cohort,
        weights=weights,
        draws=tuple(population.cohort.draws[number] for number in known),
        values={name: value[index] for name, value in population.cohort.values.items()},
    )
    settings = plan.recipe.population
    judged = Population.of(cohort, known)
    judged.prepare(trial_steps(job, first_state(settings.members), 1), Layout("singles", len(known)))
    name = "accuracy" if job.task == "classification" else "r2"
    found = {split: evaluate_members(job, judged, plan.prepared.examples[split]) for split in ("dev", "test")}
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(state.trials):
        row: dict[str, Any] = {"trial": number, "fate": trial.fate, "best_epoch": trial.best_epoch}
        row |= {key: values[number] for key, values in settings.lists().items()}
        if trial.best_epoch:
            place = known.index(number)
            for split, (loss, metric) in found.items():
                row |= {f"{split}_loss": float(loss[place]), f"{split}_{name}": float(metric[place])}
        rows.append(row)
    spread = {key: _spread([row[key] for row in rows if key in row], name in key) for key in _keys(rows, name)}
    chosen_by = "dev_loss" if job.metric == "loss" else f"dev_{name}"
    return {"trials": jsonable(rows), "spread": jsonable(spread), "chosen_by": chosen_by}


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
    "lay_out",
    "make_population",
    "members_job",
]
