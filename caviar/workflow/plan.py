"""From what a user asked for to a plan: a complete recipe, examples and a model, checked before anything is written."""

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from caviar.augment.pipeline import is_none
from caviar.bundle.forward import check_prediction
from caviar.core.columns import Task
from caviar.core.device import resolve_device
from caviar.core.errors import InputError
from caviar.core.examples import Splits
from caviar.core.seeds import generator_for
from caviar.data.raw import RawData
from caviar.data.row_keys import row_keys
from caviar.data.splits import count_overlaps, make_splits
from caviar.nn import (
    LayerSummary,
    adapt_model,
    build_model,
    check_outputs,
    has_batch_norm,
    has_convolutions,
    load_callable,
    looks_at_data,
    resolve_loss,
    summarise,
    use_channels_last,
)
from caviar.nn.settings import CodeSettings, ConvNetSettings, GivenSettings, MLPSettings
from caviar.optim import build_optimizer
from caviar.population.settings import PopulationSettings
from caviar.recipe import (
    Recipe,
    Sparse,
    from_dict,
    from_recipe,
    member_sparses,
    merge,
    parse_assignment,
    validate,
    varied_keys,
)
from caviar.recipe.cohorts import join_members
from caviar.train.batching import batch_bounds
from caviar.train.folds import Folds
from caviar.workflow.prepare import Prepared, prepare
from caviar.workflow.resolve import resolve
from caviar.workflow.source import InMemory, Progress, kind_of, open_source

OVERLAP_ROWS = 5_000_000
COMPILERS = ("g++", "clang++", "c++")
ROWS_TO_ADAPT_TO = 256
"""Training rows that initial weights which look at data are adapted to."""


@dataclass(frozen=True)
class Plan:
    """All that is known before the run's folder exists.

    layers: of the network, for a person to read; () where a foreign module cannot be listed. notices: sentences for
    the user. folds: of the rows that are not test, which then are all in train; or None.
    """

    recipe: Recipe
    raw: RawData
    splits: Splits
    prepared: Prepared
    model: nn.Module
    device: torch.device
    layers: tuple[LayerSummary, ...]
    notices: tuple[str, ...]
    folds: Folds | None = None


@contextlib.contextmanager
def torch_as_before() -> Iterator[None]:
    """Put torch's number of threads and its CPU generator back as they were before the block."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def make_plan(
    sparse: Sparse,
    memory: InMemory | None = None,
    model: nn.Module | None = None,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
    same_data: bool = False,
    pooled: bool = False,
) -> Plan:
    """Read the data, split it, choose every "auto", fit the preprocessing, build the model, and try one batch.

    pooled: dev's rows join those of train where the recipe asks for folds, which take dev's place.
    Data with another digest than the recipe states is refused with `same_data`, else it is worth a notice. Where
    members differ in settings (population.vary) everything but the recipe is that of trial 0.

    Raises:
        InputError: something of it cannot work; nothing has been written.
    """
    members, population = complete_members(sparse, memory, model)
    recipe = members[0]
    for each in members:
        if isinstance(each.model, CodeSettings) and not allow_code:
            raise InputError(
                f"model.name is {each.model.name!r}, which runs Python code. If you trust this recipe and that code, "
                "add --allow-code."
            )
    device = resolve_device(recipe.device.name)
    if recipe.device.compile and device.type == "cpu":
        _check_compiler()
    if recipe.device.threads != "auto":
        torch.set_num_threads(recipe.device.threads)
    raw = open_source(recipe.data, recipe.split, memory, progress)
    changed = _changed_data(recipe, raw)
    if changed and same_data:
        raise InputError(f"{changed} Put the old data back, or start a new run.")
    splits = make_splits(
        recipe.split,
        raw.targets,
        raw.task,
        raw.parts,
        recipe.seed,
        split_column=raw.split_column,
        groups=raw.groups,
        class_names=raw.classes,
    )
    if pooled and population.folds != "none":
        splits = Splits(np.sort(np.concatenate([splits.train, splits.dev])), splits.dev[:0], splits.test)
    resolved = resolve_members(members, population, raw, splits)
    assert isinstance(resolved.device.threads, int)
    torch.set_num_threads(resolved.device.threads)
    plan = assemble(resolved, raw, splits, model, device)
    return replace(plan, notices=(*plan.notices, changed)) if changed else plan


def variant(plan: Plan, assignments: Sequence[str], module: nn.Module | None = None) -> Plan:
    """Return the plan of the same data and splits under other settings ("optimizer.learning_rate=0.1").

    module: the user's own, as it was before training, for a plan that has one. Raises InputError when the settings
    cannot be, or are about the data.
    """
    changed = merge(from_recipe(plan.recipe), *map(parse_assignment, assignments))
    recipe = validate(changed, plan.raw.kind)
    if (recipe.data, recipe.split) != (plan.recipe.data, plan.recipe.split):
        raise InputError("other data, or other splits, make another run: settings of [data] and [split] must stay.")
    resolve_loss(recipe.loss, plan.raw.task, len(plan.raw.classes))
    resolved = resolve(recipe, plan.raw, plan.splits)
    return assemble(resolved, plan.raw, plan.splits, module, plan.device, others=(plan,))


def _changed_data(recipe: Recipe, raw: RawData) -> str:
    """Return a sentence when the data is not what the recipe was resolved with, else nothing."""
    if recipe.data.digest in ("auto", raw.digest):
        return ""
    source = "the data in memory" if recipe.data.source == "none" else recipe.data.source
    return (
        f"{source}: the data has changed since this recipe was written (its digest was {recipe.data.digest}, now it is "
        f"{raw.digest})."
    )


def _check_compiler() -> None:
    if not os.environ.get("CXX") and not any(shutil.which(name) for name in COMPILERS):
        raise InputError(
            f"device.compile needs a C++ compiler ({', '.join(COMPILERS)}), and none was found on the PATH. "
            "Install one, or leave device.compile = false."
        )


def complete(sparse: Sparse, memory: InMemory | None, model: nn.Module | None) -> Recipe:
    """Validate what was asked for, with the network's default name taken from the data's kind."""
    if model is not None:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        sparse = merge(sparse, from_dict({"model": {"name": "given", "class_name": kind}}, "model="))
    first = validate(sparse)
    return validate(sparse, kind_of(first.data, memory))


def complete_members(
    sparse: Sparse, memory: InMemory | None, model: nn.Module | None
) -> tuple[list[Recipe], PopulationSettings]:
    """Return what was asked for each member, one where they do not vary, and how they are run together."""
    population = complete(sparse, memory, model).population
    own = [key for key in varied_keys(population.vary) if key.split(".")[0] == "model"]
    if model is not None and own:
        raise InputError(
            f"population.vary: members cannot differ in {own[0]} when model= is the network of all. Leave one of the "
            "two out. (Dropout rates may differ: population.dropout.)"
        )
    recipes = [complete(each, memory, model) for each in member_sparses(sparse)]
    return recipes, population


def resolve_members(recipes: Sequence[Recipe], population: PopulationSettings, raw: RawData, splits: Splits) -> Recipe:
    """Choose every "auto" of each member, as if it were alone, and return the one recipe of all."""
    for recipe in recipes:
        resolve_loss(recipe.loss, raw.task, len(raw.classes))
    resolved = join_members([resolve(recipe, raw, splits) for recipe in recipes], population)
    vary = resolved.population.vary
    losses = [key for key in vary if key.split(".")[0] == "loss"]
    if losses and resolved.training.metric == "loss":
        other = "accuracy" if raw.task == "classification" else "r2"
        raise InputError(
            f"population.vary: members that differ in {losses[0]} cannot be compared by their losses. Let another "
            f'metric choose the best: training.metric = "{other}".'
        )
    return resolved


def assemble(
    recipe: Recipe,
    raw: RawData,
    splits: Splits,
    given: nn.Module | None,
    device: torch.device,
    others: Sequence[Plan] = (),
) -> Plan:
    """Build all that a resolved recipe describes; examples are shared with `others` that prepare them alike."""
    outputs = len(raw.classes) if raw.task == "classification" else 1
    own = isinstance(recipe.model, MLPSettings | ConvNetSettings)
    model = None if own else _foreign_model(recipe, given)
    convolves = isinstance(recipe.model, ConvNetSettings) or (model is not None and has_convolutions(model))
    layout, copies = convolves and raw.kind == "pictures", recipe.population.views
    shared = next((other.prepared for other in others if _prepares_alike(other, recipe, layout)), None)
    prepared = shared or prepare(raw, splits, recipe, device, channels_last=layout, copies=copies)
    example = prepared.prepare(example_batch(prepared, device))
    if model is None:
        assert isinstance(recipe.model, MLPSettings | ConvNetSettings)
        cardinalities = tuple(getattr(prepared.preprocess, "cardinalities", ()))
        generator = generator_for(recipe.seed, "trial", 0, "weights")
        model = build_model(recipe.model, prepared.input_shape, outputs, generator, cardinalities)
    model.to(device)
    if isinstance(recipe.model, MLPSettings | ConvNetSettings):
        if looks_at_data(recipe.model):
            adapt_model(recipe.model, model, prepared.prepare(example_batch(prepared, device, ROWS_TO_ADAPT_TO)))
    else:
        _check_foreign(model, example, raw.task, outputs)
    check_prediction(recipe.prediction, raw.kind, model)
    batch_size = recipe.training.batch_size
    assert isinstance(batch_size, int)
    build_optimizer(recipe.optimizer, model)  # refuses a model that the rule is not for
    batch_bounds(len(splits.train), batch_size, merge_single=has_batch_norm(model))
    if raw.kind == "pictures" or model is given:
        use_channels_last(model, example)
    notices = (*raw.notices, *_overlap_notices(raw, splits))
    return Plan(recipe, raw, splits, prepared, model, device, _layers(model, prepared, example), notices)


def _prepares_alike(other: Plan, recipe: Recipe, channels_last: bool) -> bool:
    theirs, same_layout = (
        other.recipe,
        channels_last == (has_convolutions(other.model) and other.raw.kind == "pictures"),
    )
    same_loss = is_none(recipe.augment) or recipe.loss == theirs.loss  # mixed labels are not for every loss
    return same_layout and same_loss and (recipe.preprocess, recipe.augment) == (theirs.preprocess, theirs.augment)


def _layers(model: nn.Module, prepared: Prepared, example: torch.Tensor) -> tuple[LayerSummary, ...]:
    try:
        return tuple(summarise(model, prepared.input_shape, example.dtype))
    except InputError:  # a module of the user's own may refuse the zeros that summarise gives it
        return ()


def _check_foreign(model: nn.Module, example: torch.Tensor, task: Task, outputs: int) -> None:
    try:
        check_outputs(model, example, task, outputs)
    except InputError as error:
        if example.is_floating_point():
            raise
        raise InputError(
            f"{error} The inputs are whole numbers ({example.dtype}), handed on as they are. If it computes with them, "
            'give floating-point numbers, or set preprocess.numeric = "zscore".'
        ) from error


def _foreign_model(recipe: Recipe, given: nn.Module | None) -> nn.Module:
    if isinstance(recipe.model, CodeSettings):
        return load_callable(
            recipe.model.name, recipe.model.arguments, generator_for(recipe.seed, "trial", 0, "weights")
        )
    if given is None:
        assert isinstance(recipe.model, GivenSettings)
        raise InputError(
            f"this run trained a module of your own, {recipe.model.class_name}, which cannot be rebuilt from data. "
            "Give it again: caviar.train(data, model=module, resume=path)."
        )
    try:
        return copy.deepcopy(given)
    except Exception as error:
        raise InputError(
            f"model={type(given).__name__}: it cannot be copied ({type(error).__name__}: {error}), and caviar trains a "
            "copy so that yours stays as it is. Keep only parameters, buffers and plain values in it."
        ) from error


def example_batch(prepared: Prepared, device: torch.device, count: int = 2) -> torch.Tensor:
    """Return a few training inputs as they are stored, spread over the split, on the device."""
    train = prepared.examples["train"]
    return train.inputs.index_select(0, train.spread(count)).to(device)


def _overlap_notices(raw: RawData, splits: Splits) -> list[str]:
    if len(raw) > OVERLAP_ROWS or raw.kind == "pictures":  # pictures: the reader compares the files themselves
        return []
    counts = count_overlaps(row_keys(raw), splits)
    return [
        f"{count} {name} rows also stand in train (same inputs and target): that flatters the {name} metric."
        for name, count in counts.items()
        if count
    ]


def source_stem(recipe: Recipe) -> str:
    """Return the word that a run's generated name begins with."""
    source = recipe.data.source
    if source == "none":
        return "run"
    if source.startswith("sample:"):
        return source.removeprefix("sample:")
    return Path(source).name.split(".")[0]


def updates(**flags: Any) -> Sparse:
    """Turn the common flags that were given into a sparse recipe: epochs, seed, device, members, target, ..."""
    places = {
        "epochs": ("training", "epochs"),
        "seed": ("seed",),
        "device": ("device", "name"),
        "members": ("population", "members"),
        "folds": ("population", "folds"),
        "care": ("training", "care"),
        "target": ("data", "target"),
        "dev": ("data", "dev"),
        "test": ("data", "test"),
    }
    parts = []
    for flag, value in flags.items():
        if value is None:
            continue
        nested: Any = value
        for key in reversed(places[flag]):
            nested = {key: nested}
        parts.append(from_dict(nested, f"--{flag} {value}"))
    return merge(Sparse(), *parts)
