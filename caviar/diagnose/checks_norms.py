"""Checks of the order of layers around batch norm."""

from typing import Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject
from caviar.diagnose.pages import limits_of
from caviar.nn.dropout import Dropout
from caviar.nn.graph import Layout, is_affine, layout_of
from caviar.nn.layout import has_batch_norm
from caviar.nn.statistics import ELEMENTWISE

DROPOUTS: Final = (_DropoutNd, Dropout)


def check_bias(subject: Subject) -> Outcome:
    """Look for biases that a batch or instance norm subtracts again."""
    model, layout = _laid_out(subject)
    if layout is None:
        return skipped("the model has no batch norm or instance norm.")
    found = [
        first
        for first, second in layout.follows
        if isinstance(model.get_submodule(second), _BatchNorm | _InstanceNorm)
        and is_affine(model.get_submodule(first))
        and getattr(model.get_submodule(first), "bias", None) is not None
    ]
    numbers = {"layers": found, "traced": layout.traced}
    if found:
        return failed(
            f"{', '.join(found[:5])}: the bias in front of batch norm is subtracted again and learns nothing.",
            "Build those layers with bias=False (caviar.nn.drop_cancelled_biases does it to a model).",
            **numbers,
        )
    return passed("no bias stands in front of a norm that subtracts it.", **numbers)


def check_dropout(subject: Subject) -> Outcome:
    """Look for dropout directly in front of batch norm, which then normalises by another variance when evaluating."""
    model, layout = _laid_out(subject)
    if layout is None:
        return skipped("the model has no batch norm or instance norm.")
    before = {second: first for first, second in layout.follows}
    found = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            front = before.get(name)
            while front is not None and isinstance(model.get_submodule(front), ELEMENTWISE):
                front = before.get(front)
            if front is not None and isinstance(model.get_submodule(front), DROPOUTS) and _drops(model, front):
                found.append((front, name))
    numbers = {"pairs": [list(pair) for pair in found], "traced": layout.traced}
    if found:
        return failed(
            f"{found[0][0]} drops units in front of {found[0][1]}: the variance that the norm remembers is not the one "
            "it meets without dropout.",
            "Put dropout behind the norm and its activation (Li et al., 2019), or leave one of the two out.",
            **numbers,
        )
    return passed("no dropout stands directly in front of batch norm.", **numbers)


def _drops(model: nn.Module, name: str) -> bool:
    rate = getattr(model.get_submodule(name), "p", getattr(model.get_submodule(name), "rate", 1.0))
    return not isinstance(rate, int | float) or rate > 0


def _laid_out(subject: Subject) -> tuple[nn.Module, Layout | None]:
    model = subject.setup.model
    if not any(isinstance(module, _BatchNorm | _InstanceNorm) for module in model.modules()):
        return model, None
    return model, layout_of(subject.setup.fresh())


def check_single(subject: Subject) -> Outcome:
    """Look whether batch norm will meet batches of very few examples, or of one."""
    setup = subject.setup
    if not has_batch_norm(setup.model):
        return skipped("the model has no batch norm.")
    if setup.batch_size is None:
        return skipped("the batch size is not known.")
    numbers = {"batch_size": setup.batch_size}
    if setup.single:
        which = "every batch has" if setup.batch_size == 1 else "the last batch of an epoch has"
        return failed(
            f"{which} one example, whose mean and variance say nothing.",
            "Choose another batch size, drop the last batch (drop_last=True), or use layer or group norm.",
            **numbers,
        )
    if setup.batch_size < limits_of("NORM003")["examples"]:
        return failed(
            f"mean and variance of {setup.batch_size} examples are mostly noise.",
            "Use larger batches, or layer or group norm.",
            **numbers,
        )
    return passed(f"batches of {setup.batch_size}; none has one example.", **numbers)
