"""The population's contract, on every layer and update rule, for every executor that can run it."""

import pytest

from caviar.population.cases import CASES, Case
from caviar.population.executors import Layout
from caviar.population.verify import LAYOUTS, MEMBERS, RULE_CASE, RULES, Row, verify_case

STACKED, CHAIN = Layout("stacked", MEMBERS), Layout("chain", MEMBERS)
UNSTACKED = {"control flow", "transformer block with dropout", "recurrent"}
IN_CHAIN = {"linear, ReLU", "linear, Tanh", "batch norm 1d", "dropout", "linear without bias", "three linear layers"}

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules")


def failures(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row.held]


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_layer_keeps_its_promises_in_a_stack(case: Case) -> None:
    rows = verify_case(case, "sgd", STACKED)
    assert not failures(rows)
    assert bool(rows[0].reason) == (case.name in UNSTACKED)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", [STACKED, CHAIN], ids=lambda layout: layout.kind)
def test_every_rule_keeps_its_promises(rule: str, layout: Layout) -> None:
    rows = verify_case(case_of(RULE_CASE), rule, layout)
    assert not failures(rows)
    if rule != "muon":
        assert not rows[0].reason


@pytest.mark.parametrize("name", sorted(IN_CHAIN))
def test_chains_keep_their_promises(name: str) -> None:
    rows = verify_case(case_of(name), "sgd", CHAIN)
    assert not failures(rows)
    assert not rows[0].reason


@pytest.mark.parametrize("layout", LAYOUTS[3:], ids=str)
def test_members_side_by_side_keep_their_promises(layout: Layout) -> None:
    assert not failures(verify_case(case_of("dropout"), "sgd", layout))


def test_modules_of_any_kind_run_one_after_another() -> None:
    for name in ("control flow", "attention", "dropout"):
        rows = verify_case(case_of(name), "adamw", Layout("singles", MEMBERS))
        assert not failures(rows)
        assert not rows[0].reason


def test_a_broken_promise_and_a_blind_check_are_seen() -> None:
    assert not Row("repeats", "a", "b", worst=1e-9, limit=0.0, control=1.0).held
    assert not Row("equals", "a", "b", worst=0.0, limit=1e-6, control=1e-7).held
    assert Row("equals", "a", "b", worst=1e-7, limit=1e-6, control=1e-4).held
