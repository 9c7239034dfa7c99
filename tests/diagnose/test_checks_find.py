"""Every check finds its planted bug."""

from collections.abc import Callable

import pytest
import torch

import caviar
from caviar.diagnose.checks import CHECKS
from caviar.diagnose.pages import pages
from caviar.diagnose.rules import CROSS_RULES, RULES
from tests.diagnose.broken import BROKEN
from tests.diagnose.healthy import Case

CODES = [check.code for check in CHECKS]


@pytest.mark.parametrize(("code", "make"), BROKEN.values(), ids=BROKEN)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_the_planted_bug_is_found(code: str, make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    others = [each for each in CODES if each != code]
    report = caviar.check(case.model, case.data, case.loss, mute=others, progress=False, **case.options)
    (result,) = report.results
    assert result.code == code
    assert result.status == "fail", result.words
    assert result.remedy
    assert result.numbers
    assert result.words.endswith(".")


def test_every_check_has_a_planted_bug() -> None:
    assert {code for code, _ in BROKEN.values()} == set(CODES)


def test_every_code_has_a_page() -> None:
    assert set(CODES) <= set(pages())
    assert len(set(CODES)) == len(CODES)
    only = {code for code in CODES if int(code[-3:]) > 100}
    assert only == set(pages()) - set(RULES) - set(CROSS_RULES)
