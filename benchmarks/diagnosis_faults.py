"""The faults of benchmarks/diagnosis.py: bugs that people really make, each put into working set-ups."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import diagnosis_changes as do
import torch
from diagnosis_works import BASES, Work, adam, sgd
from torch import nn


@dataclass(frozen=True)
class SetUp:
    """A named set-up. codes: any of these is right; () where nothing is wrong."""

    name: str
    build: Callable[[Path], Work]
    codes: tuple[str, ...] = ()


def _fault(what: str, codes: str, bases: str, apply: do.Change) -> list[SetUp]:
    """Put one fault into several working set-ups."""

    def build(base: str) -> Callable[[Path], Work]:
        def made(folder: Path) -> Work:
            work = BASES[base](folder)
            changed = apply(work)
            return changed if isinstance(changed, Work) else work

        return made

    return [SetUp(f"{what}, {base}", build(base), tuple(codes.split())) for base in bases.split(", ")]


DEEP = "digits deep, adult deep, cifar conv"
NUMBERS = "california mlp, california deep"

FAULTS: list[SetUp] = [
    # DATA
    *_fault(
        "labels shuffled against inputs",
        "DATA001",
        "digits deep, adult mlp, california mlp, cifar conv",
        do.targets(do.shuffled),
    ),
    *_fault("inputs not scaled", "DATA002", "digits deep, adult mlp, california mlp, cifar plain", do.raw),
    *_fault(
        "dev from elsewhere",
        "DATA004",
        "digits mlp, california deep, cifar conv",
        do.inputs(lambda x: 0.4 * x + 1.5, train=False),
    ),
    *_fault(
        "dev prepared otherwise",
        "DATA004",
        "digits conv, adult deep",
        do.inputs(lambda x: (x + 1) / 8, train=False),
    ),
    *_fault("dev of other classes", "DATA005", "digits mlp, cifar plain", do.other_classes),
    *_fault("pictures overflown", "DATA010", "cifar conv, cifar plain", do.overflown),
    *_fault("targets not scaled", "DATA012", NUMBERS, do.targets(lambda y: 115_000 * y + 207_000)),
    *_fault(
        "two labels in five wrong",
        "DATA008",
        "digits deep, digits conv",
        do.noisy_labels(0.4, epochs=40),
    ),
    *_fault("augmentation turns digits", "DATA014", "digits conv", do.setting(augment=do.upside_down)),
    *_fault(
        "augmentation forgets labels",
        "DATA014 DATA001",
        "digits conv, cifar plain",
        do.setting(augment=do.apart),
    ),
    *_fault("one in a hundred", "DATA102 DATA007", "digits mlp, digits deep", do.rare),
    *_fault("dev rows in train", "DATA103", "digits mlp, california mlp", do.dev_in_train),
    *_fault("target among the inputs", "DATA104", "digits mlp, adult mlp", do.column_of_target),
    # NUM
    *_fault("a row of NaN", "NUM002 NUM001", "digits mlp, cifar conv, california deep", do.one_bad_row),
    *_fault("softmax twice", "NUM003", "digits deep, adult mlp, cifar plain", do.after(nn.Softmax(1))),
    *_fault("sigmoid before the loss", "NUM003", "digits mlp, adult deep", do.after(nn.Sigmoid())),
    *_fault("softmax over the batch", "NUM004", "digits mlp, adult mlp", do.forward(do.across)),
    *_fault("no log softmax", "NUM101 NUM005", "digits mlp, adult mlp", do.setting(loss=nn.NLLLoss())),
    *_fault("relu on a regression", "NUM101", NUMBERS, do.after(nn.ReLU())),
    *_fault("targets broadcast", "NUM007", NUMBERS, do.setting(loss=lambda z, y: (z - y).square().mean())),
    *_fault("log of 0", "NUM001", "digits mlp, digits conv", do.setting(loss=do.log_of_relu)),
    *_fault("the loss turned round", "NUM005", "digits mlp, adult deep", do.setting(loss=do.forgets_the_sign)),
    # INIT
    *_fault("all weights 0", "INIT002", "digits mlp, adult mlp, california deep", do.zeros),
    *_fault("constant weights", "INIT002", "digits mlp, adult mlp", do.weights(lambda w: nn.init.constant_(w, 0.01))),
    *_fault(
        "huge weights", "INIT001 INIT007", "digits mlp, adult mlp, cifar plain", do.weights(lambda w: w.mul_(15.0))
    ),
    *_fault(
        "tiny weights",
        "INIT004 INIT007",
        "california deep, cifar plain, digits mlp",
        do.weights(lambda w: w.mul_(0.005)),
    ),
    *_fault("units dead from the start", "INIT005 GRAD004", "digits mlp, adult mlp", do.biases(-6.0)),
    *_fault(
        "tanh saturated",
        "INIT006 GRAD005",
        "digits mlp, adult mlp",
        lambda w: (do.activation(nn.Tanh, 3)(w), do.weights(lambda p: p.mul_(15))(w))[0],
    ),
    # GRAD
    *_fault("sigmoids eight deep", "GRAD001 INIT004", "digits mlp, adult mlp", do.activation(nn.Sigmoid, 8)),
    *_fault("detached", "GRAD003", "digits deep, adult mlp, cifar plain", do.forward(do.detached)),
    *_fault("a layer unused", "GRAD003", "digits deep, california mlp", do.forward(do.unused)),
    *_fault("zero_grad missing", "GRAD006", "digits mlp, adult deep, cifar plain", do.setting(zero_grad=False)),
    *_fault("optimizer holds an old head", "GRAD007", "digits mlp, adult deep", do.stale),
    *_fault("optimizer holds an old net", "GRAD007", "california mlp, cifar conv", do.all_stale),
    *_fault("a frozen layer", "GRAD008", "digits deep, california deep, cifar plain", do.freeze(1)),
    *_fault("all frozen but the head", "GRAD008", "adult mlp, cifar conv", do.freeze_but_last),
    *_fault("no step", "GRAD011", "digits mlp, california mlp", do.setting(step=False)),
    *_fault("a wrong backward", "GRAD101", "digits mlp, california mlp", do.forward(do.wrong_backward)),
    # LR
    *_fault(
        "rate 1000 times too high",
        "LR002 LR003 LR004",
        "digits mlp, adult mlp, california deep, cifar conv",
        do.rate(1000),
    ),
    *_fault("rate 1000 times too low", "LR001", "digits mlp, adult deep, california deep, cifar plain", do.rate(1e-3)),
    *_fault("rate 300 times too high", "LR002 LR005 LR003 LR004", "digits mlp, california mlp", do.rate(300)),
    *_fault(
        "momentum 0.999",
        "LR010 LR005",
        "digits conv, california deep",
        lambda w: replace(w, optimizer=sgd(0.02, 0.999), schedule=None),
    ),
    *_fault("rate decayed too soon", "LR009", "digits mlp, california deep", do.setting(schedule=do.fades(0.08))),
    *_fault("a few extreme rows", "LR011 DATA011", "adult mlp, california mlp", do.extreme_rows),
    *_fault("stopped while falling", "LR012", "digits mlp, cifar plain", do.setting(epochs=2, optimizer=adam(2e-4))),
    # FIT
    *_fault("tiny data, big net", "FIT001", "digits mlp, adult mlp, california mlp", do.tiny_data(100, 300, 80)),
    *_fault("net too small", "FIT002 FIT101", "digits mlp, california mlp", do.too_small),
    # NORM
    *_fault("trained in evaluation mode", "NORM001", DEEP, do.setting(training=False)),
    *_fault("running averages stand still", "NORM002 NORM004", "digits deep, cifar conv", do.momentum_of_norms(1e-4)),
    *_fault("momentum of norms turned round", "NORM002 NORM004", "adult deep, digits conv", do.momentum_of_norms(0.99)),
    *_fault(
        "batch norm on two examples", "NORM003", "digits deep, adult deep", lambda w: replace(w, batch_size=2, epochs=2)
    ),
    *_fault("dropout never off", "NORM102", "digits mlp, adult mlp", do.forward(do.always_dropping)),
    *_fault("outputs of a batch mixed", "NORM101", "digits mlp, cifar plain", do.forward(do.mixed_batch)),
    *_fault("batch norm without averages", "NORM101", "digits deep, adult deep", do.norms(do.no_averages)),
    *_fault("bias before batch norm", "NORM103", "digits deep, cifar conv", do.bias_before_norm),
    *_fault("dropout before batch norm", "NORM104", "digits deep, digits conv", do.dropout_before_norm),
    # REG
    *_fault(
        "weight decay huge",
        "REG001 REG002",
        "digits mlp, cifar conv, california mlp",
        lambda w: replace(w, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=100.0)),
    ),
    *_fault(
        "penalty drowns the loss",
        "REG002 REG001",
        "digits mlp, adult mlp, california mlp",
        do.setting(penalty=lambda m: 1.0 * do.squares(m)),
    ),
    *_fault("nearly all dropped", "REG003", "adult deep, cifar conv", do.dropout(0.97)),
    # PERF
    *_fault("data arrives slowly", "PERF001", "digits mlp, adult mlp", lambda w: replace(w, wait=0.02, epochs=6)),
    *_fault(
        "losses kept with their graphs",
        "PERF005 PERF004",
        "california deep",
        lambda w: replace(w, keep=True, epochs=20),
    ),
    *_fault(
        "one example a batch",
        "PERF002",
        "digits mlp, california mlp",
        lambda w: replace(w, batch_size=1, epochs=2, optimizer=sgd(0.003, 0.0)),
    ),
    # SEARCH
    *_fault(
        "a search among rates too low",
        "SEARCH001",
        "digits mlp, california mlp",
        do.search(0.001, 0.003, 0.01, 0.03, 0.1),
    ),
    *_fault(
        "a search among rates too high",
        "SEARCH002",
        "california mlp, digits mlp",
        lambda w: do.search(0.1, 1, 1e3, 1e5, 1e7)(replace(w, optimizer=sgd(0.02))),
    ),
    *_fault("members with one seed", "SEARCH004", "digits mlp, adult mlp", do.search(1, 1, 1, 1, seeds=False)),
    *_fault(
        "members that dev cannot tell apart",
        "SEARCH003",
        "digits mlp, adult mlp",
        lambda w: (do.few_in_dev(60)(w), do.search(0.8, 0.9, 1, 1.1, 1.2)(w))[1],
    ),
]
