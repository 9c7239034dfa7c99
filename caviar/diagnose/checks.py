"""The checks before a long run, in the order in which they run."""

import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import torch

from caviar.core.errors import unknown_name
from caviar.core.seeds import derive_seed
from caviar.diagnose.checks_data import (
    check_balance,
    check_finite,
    check_outliers,
    check_overflow,
    check_scale,
    check_target,
    check_variety,
)
from caviar.diagnose.checks_gradients import (
    check_arrival,
    check_exploding,
    check_frozen,
    check_numeric,
    check_vanishing,
)
from caviar.diagnose.checks_learning import check_augment, check_inputs, check_labels, check_tiny
from caviar.diagnose.checks_loss import (
    check_across,
    check_drowned,
    check_extra,
    check_missing,
    check_number,
    check_penalty,
    check_rows,
    check_start,
)
from caviar.diagnose.checks_modes import check_agreement, check_averages, check_evaluation, check_leak
from caviar.diagnose.checks_norms import check_bias, check_dropout, check_single
from caviar.diagnose.checks_optimizer import check_decay, check_held, check_momentum
from caviar.diagnose.checks_rate import check_high, check_low
from caviar.diagnose.checks_setup import CheckResult, Outcome, Setup, skipped
from caviar.diagnose.checks_splits import check_class_shares, check_column_leak, check_repeats, check_shift
from caviar.diagnose.checks_start import check_dead, check_saturated, check_signal, check_symmetry
from caviar.diagnose.checks_subject import Subject


@dataclass(frozen=True)
class Check:
    """A check: its stable code, what it looks at in a few words, and the function."""

    code: str
    title: str
    run: Callable[[Subject], Outcome]


FINITE: Final = "NUM002"
CHECKS: Final = (
    Check(FINITE, "inputs and targets are finite", check_finite),
    Check("DATA002", "inputs are centred and scaled", check_scale),
    Check("DATA011", "no example is far from all others", check_outliers),
    Check("DATA010", "pixels have not wrapped around", check_overflow),
    Check("DATA012", "targets are scaled", check_target),
    Check("DATA101", "targets differ, classes have examples", check_variety),
    Check("DATA102", "classes are balanced", check_balance),
    Check("DATA103", "no dev row stands in train", check_repeats),
    Check("DATA104", "no input column is the target", check_column_leak),
    Check("DATA004", "dev's inputs are like train's", check_shift),
    Check("DATA005", "dev's class shares are train's", check_class_shares),
    Check("NUM001", "the first loss is a number", check_number),
    Check("INIT001", "the first loss is as expected", check_start),
    Check("NUM003", "no last activation too many", check_extra),
    Check("NUM004", "no softmax over the batch", check_across),
    Check("NUM101", "no last activation missing", check_missing),
    Check("NUM007", "the loss pairs outputs with their targets", check_rows),
    Check("REG101", "the penalty rises with the weights", check_penalty),
    Check("REG002", "the penalty does not drown the loss", check_drowned),
    Check("INIT004", "inputs arrive at the last layer", check_signal),
    Check("INIT005", "units are alive", check_dead),
    Check("INIT006", "units are not saturated", check_saturated),
    Check("INIT002", "units begin differently", check_symmetry),
    Check("GRAD101", "gradients are right (float64)", check_numeric),
    Check("GRAD003", "every parameter gets a gradient", check_arrival),
    Check("GRAD007", "the optimizer holds the parameters", check_held),
    Check("GRAD008", "frozen weights have learned", check_frozen),
    Check("GRAD001", "gradients do not vanish with depth", check_vanishing),
    Check("GRAD002", "gradients do not explode with depth", check_exploding),
    Check("NORM101", "no example sees another", check_leak),
    Check("NORM102", "evaluation is free of chance", check_evaluation),
    Check("NORM004", "training and evaluation agree", check_agreement),
    Check("NORM002", "running averages gather", check_averages),
    Check("NORM003", "batches are large enough for batch norm", check_single),
    Check("NORM103", "no bias in front of batch norm", check_bias),
    Check("NORM104", "no dropout in front of batch norm", check_dropout),
    Check("FIT101", "a tiny sample is learned by heart", check_tiny),
    Check("DATA001", "real inputs beat zeroed ones", check_inputs),
    Check("DATA105", "shuffled labels do not beat chance", check_labels),
    Check("DATA014", "augmentation keeps the answer", check_augment),
    Check("REG001", "weight decay leaves the weights alive", check_decay),
    Check("LR010", "momentum forgets in time", check_momentum),
    Check("LR001", "the learning rate is not far too low", check_low),
    Check("LR002", "the learning rate is not far too high", check_high),
)
"""Codes are those of the findings that say the same of a run; those from 101 on are of checks only."""

Progress = Callable[[int, int, str], None]


def run_checks(setup: Setup, mute: Collection[str] = (), progress: Progress | None = None) -> tuple[CheckResult, ...]:
    """Run every check that is not muted; `progress` hears (done, all of them, what is next).

    A check that fails to run says so and is skipped. Where the data is not finite, only checks of the data run.
    Raises InputError for an unknown code in `mute`.
    """
    check_codes(mute)
    chosen = [check for check in CHECKS if check.code not in mute]
    subject, results = Subject(setup), list[CheckResult]()
    finite = check_finite(subject).status == "pass"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the model or the loss warn of is what the checks look for
        for number, check in enumerate(chosen):
            if progress is not None:
                progress(number, len(chosen), check.title)
            began = time.monotonic()
            if finite or check.code == FINITE:
                outcome = _run(check, subject)
            else:
                outcome = skipped("the data is not finite: see NUM002.")
            seconds = time.monotonic() - began
            results.append(
                CheckResult(
                    check.code, check.title, outcome.status, outcome.words, outcome.numbers, outcome.remedy, seconds
                )
            )
    if progress is not None:
        progress(len(chosen), len(chosen), "")
    return tuple(results)


def check_codes(codes: Collection[str]) -> None:
    """Raise InputError for a code that no check has, offering the nearest."""
    known = [check.code for check in CHECKS]
    for code in codes:
        if code not in known:
            raise unknown_name("check", code, known)


def _run(check: Check, subject: Subject) -> Outcome:
    """Run one check with random streams of its own."""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(subject.setup.seed, check.code))
            return check.run(subject)
    except Exception as error:  # a network or loss of the user's own may refuse what a check tries
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        return skipped(f"the check could not run: {words[:200]}")
