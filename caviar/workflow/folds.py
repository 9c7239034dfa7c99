"""Cross-validation inside a population: the folds of the rows that are not test, each with its own preprocessing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.examples import Examples, RowNumbers, Splits
from caviar.data.folds import make_folds
from caviar.preprocess.table import TablePreprocess
from caviar.recipe import Recipe
from caviar.train.folds import Folds, View
from caviar.workflow.plan import Plan
from caviar.workflow.prepare import Prepared, mapped_tensor, prepare

BLOCK_ROWS = 1 << 16


def check_folds(recipe: Recipe) -> None:
    """Refuse what folds cannot be combined with."""
    if recipe.population.folds != "none" and (recipe.augment.mixup or recipe.augment.cutmix):
        raise InputError(
            "population.folds with augment.mixup or augment.cutmix would mix rows that a fold trains on with rows "
            "that judge it. Set both to 0, or population.folds to none."
        )


def with_folds(plan: Plan) -> Plan:
    """Return a plan, made with dev's rows among train's, with its folds where its recipe asks for some."""
    number = plan.recipe.population.folds
    if not isinstance(number, int):
        return plan
    check_folds(plan.recipe)
    rows = fold_rows(plan, number)
    whole = View(plan.prepared.examples["train"], plan.prepared.examples["test"], plan.prepared.prepare)
    found = [_prepared(plan, own) for own in rows]
    same = all(_is_same(each.preprocess, plan.prepared.preprocess) for each in found)
    views = [_view(each, whole, plan.prepared, same=same) for each in found]
    stored = whole.train.rows
    places = [torch.from_numpy(own.astype(np.int64)) for own in rows]
    held_out = [place if stored is None else stored[place.to(stored.device)] for place in places]
    home = whole.train.inputs.device
    folds = Folds((*views, whole), tuple(own.to(home) for own in held_out), same, plan.raw.task == "classification")
    return replace(plan, folds=folds)


def fold_rows(plan: Plan, number: int) -> list[RowNumbers]:
    """Return for each fold the places among the rows that are not test which it holds out.

    Groups stay together where split.group is set, else classes are spread evenly where split.stratify is.
    """
    rows, raw, settings = plan.splits.train, plan.raw, plan.recipe.split
    stratified = raw.task == "classification" and settings.stratify
    groups = None if raw.groups is None else raw.groups[rows]
    try:
        folds = make_folds(
            len(rows), number, plan.recipe.seed, stratify=raw.targets[rows] if stratified else None, groups=groups
        )
    except InputError as error:
        raise InputError(f"population.folds = {number}: {error}") from error
    if raw.task == "classification":
        _check_classes(plan, folds)
    return [held_out for _, held_out in folds]


def _check_classes(plan: Plan, folds: list[tuple[RowNumbers, RowNumbers]]) -> None:
    labels = plan.raw.targets[plan.splits.train]
    for number, (kept, _) in enumerate(folds):
        missing = np.setdiff1d(labels, labels[kept])
        if len(missing):
            raise InputError(
                f"population.folds: every row of class {plan.raw.classes[int(missing[0])]!r} is in fold {number}, so "
                "that training without this fold could not learn it. Use fewer folds, another seed, or "
                "split.stratify = true."
            )


def _prepared(plan: Plan, held_out: RowNumbers) -> Prepared:
    """Prepare all rows by what is fitted on those that a fold keeps."""
    kept: RowNumbers = np.delete(plan.splits.train, held_out)  # type: ignore[assignment]
    splits = Splits(kept, plan.splits.train, plan.splits.test)
    settings = plan.recipe.population
    channels_last = plan.prepared.examples["train"].inputs.dim() == 4 and plan.raw.kind == "pictures"
    return prepare(
        plan.raw, splits, plan.recipe, plan.device,
        channels_last=channels_last, names=("dev", "test"), copies=settings.views,
    )  # fmt: skip


def _view(own: Prepared, whole: View, prepared: Prepared, *, same: bool) -> View:
    """Return what a fold sees; inputs that are those of the whole are not kept twice."""
    train, test = own.examples["dev"], own.examples["test"]
    if same:
        train, test = (replace(e, inputs=w.inputs) for e, w in ((train, whole.train), (test, whole.test)))
        return View(train, test, whole.prepare)
    fit = fitted_to(own.preprocess, prepared.preprocess)
    if train.rows is not None:
        train, test = (replace(e, inputs=w.inputs) for e, w in ((train, whole.train), (test, whole.test)))
    if fit is None:
        return View(train, test, own.prepare)
    if train.rows is None:
        train, test = (_changed(each, fit, mapped=own.mapped) for each in (train, test))
        return View(train, test, own.prepare)
    return View(train, test, lambda stored: fit(own.prepare(stored)))


def _changed(examples: Examples, fit: Callable[[Tensor], Tensor], *, mapped: bool) -> Examples:
    if not mapped:
        return replace(examples, inputs=fit(examples.inputs))
    parts = torch.split(examples.inputs, BLOCK_ROWS)
    changed = mapped_tensor((len(examples.inputs), *fit(parts[0][:1]).shape[1:]), examples.inputs.dtype)
    for number, part in enumerate(parts):
        changed[number * BLOCK_ROWS : number * BLOCK_ROWS + len(part)] = fit(part)
    return replace(examples, inputs=changed)


def _is_same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two fitted preprocessings are one."""
    configs = [getattr(module, "config")() for module in (first, second)]  # noqa: B009 (every preprocessing has one)
    one, other = first.state_dict(), second.state_dict()
    return bool(configs[0] == configs[1]) and all(torch.equal(one[name], other[name]) for name in one)


def fitted_to(own: nn.Module, whole: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return how a fold's features take the places that they have in all rows', or None where they have them.

    Fitted on fewer rows, a table may have fewer categories or missing flags, and a decorrelation may keep another
    number of directions. All members have one architecture: a feature that a fold does not know is 0 in it, and one
    that only the fold knows is left out.
    """
    if not isinstance(own, TablePreprocess) or not isinstance(whole, TablePreprocess):
        return _directions_of(own, whole)
    if own.feature_names == whole.feature_names and own.state.vocabularies == whole.state.vocabularies:
        return None
    places = _places(whole)
    pairs = [(place, places[key]) for key, place in _places(own).items() if key in places]
    sources, goals = (torch.tensor(side, dtype=torch.int64) for side in zip(*pairs, strict=True))
    slots = _slots(own, whole) if whole.cardinalities else {}

    def fit(features: Tensor) -> Tensor:
        found = features.new_zeros(len(features), whole.width)
        found[:, goals] = features[:, sources]
        for place, table in slots.items():
            found[:, place] = table[found[:, place].long()]
        return found

    return fit


def _places(preprocess: TablePreprocess) -> dict[tuple[str, int], int]:
    """Return the place of each feature by its name, and by which of those of that name it is."""
    names = preprocess.feature_names
    seen: Counter[str] = Counter()
    places = {}
    for place, name in enumerate(names):
        places[name, seen[name]] = place
        seen[name] += 1
    return places


def _slots(own: TablePreprocess, whole: TablePreprocess) -> dict[int, Tensor]:
    """Return for each feature that is a slot the whole's slot of each of the fold's: 0, the unknown, for none."""
    found = {}
    first = whole.width - len(whole.state.categories)
    for number, column in enumerate(whole.state.categories):
        ours, theirs = (each.state.vocabularies[column.name].labels for each in (own, whole))
        known = {label: float(slot) for slot, label in enumerate(theirs)}
        found[first + number] = torch.tensor([known.get(label, 0.0) for label in ours])
    return found


def _directions_of(own: nn.Module, whole: nn.Module) -> Callable[[Tensor], Tensor] | None:
    first, second = (getattr(module, "decorrelation", None) for module in (own, whole))
    if first is None or second is None or first.state.outputs == second.state.outputs:
        return None
    width = second.state.outputs

    def fit(features: Tensor) -> Tensor:
        found = features.new_zeros(len(features), width)
        count = min(width, features.shape[1])
        found[:, :count] = features[:, :count]
        return found

    return fit
