"""Pages and thresholds: complete, used, and their remedies are settings that exist."""

import inspect
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import caviar
from caviar.cli.main import app
from caviar.core.errors import InputError
from caviar.core.findings import FAMILIES, Finding, Remedy
from caviar.diagnose.checks import CHECKS
from caviar.diagnose.pages import documents, limits_of, markdown, page_of, pages, plain
from caviar.diagnose.rules import CROSS_RULES, RULES
from caviar.recipe import Recipe, from_dict, validate
from caviar.recipe.recipe import PLAIN_SECTIONS, VARIANTS
from caviar.workflow.remedies import remedies_for, settings_of

ALL = {**RULES, **CROSS_RULES}


def test_every_code_that_can_be_printed_has_a_page_and_no_page_is_idle() -> None:
    checks = {check.code for check in CHECKS}
    assert pages().keys() == ALL.keys() | checks
    assert {code for code in pages() if int(code[-3:]) > 100} == checks - ALL.keys()
    assert len(ALL) >= 40
    assert {code.rstrip("0123456789") for code in ALL} == set(FAMILIES)
    assert len(FAMILIES) == 10


def test_no_check_or_rule_names_another_code() -> None:
    root = Path(caviar.__file__).parent
    texts = [path.read_text(encoding="utf-8") for kind in ("*.py", "*.toml") for path in root.rglob(kind)]
    named = re.compile(rf"\b(?:{'|'.join(FAMILIES)})\d{{3}}\b")
    assert {code for text in texts for code in named.findall(text)} == set(pages())


@pytest.mark.parametrize("code", pages())
def test_explain_prints_the_whole_page(code: str) -> None:
    result = CliRunner().invoke(app, ["explain", code.lower()])
    page = pages()[code]
    assert result.exit_code == 0
    for part in (code, page.title, page.sees, page.why, page.evidence, page.ignore, page.source):
        assert part in result.output
    places = [result.output.index(remedy.do) for remedy in page.remedies]
    assert places == sorted(places)
    assert len(page.remedies) >= 1


@pytest.mark.parametrize("code", pages())
def test_a_page_tells_all_it_should(code: str) -> None:
    page = pages()[code]
    assert page.family in FAMILIES
    for text in (page.title, page.sees, page.why, page.evidence, page.ignore, page.source):
        assert text
        assert text == text.strip()
    assert page.remedies
    assert page.title in plain(page)
    assert all(f"## {heading}" in markdown(page) for heading in ("What it sees", "Why it matters", "Source"))
    assert set(page.explained_by) <= pages().keys() - {code}


@pytest.mark.parametrize("code", ALL)
def test_thresholds_are_those_that_the_rule_uses(code: str) -> None:
    used = set(re.findall(r'limits\["(\w+)"\]', inspect.getsource(ALL[code])))
    assert used == set(limits_of(code))
    assert all(threshold.meaning for threshold in pages()[code].thresholds)


def test_no_finding_explains_its_own_cause() -> None:
    done: set[str] = set()

    def follow(code: str, above: tuple[str, ...]) -> None:
        assert code not in above, " <- ".join((*above, code))
        if code not in done:
            for cause in pages()[code].explained_by:
                follow(cause, (*above, code))
            done.add(code)

    for code in pages():
        follow(code, ())


@pytest.mark.parametrize("code", pages())
def test_remedies_change_settings_that_exist(code: str) -> None:
    for remedy in pages()[code].remedies:
        for setting, how in remedy.change.items():
            section, _, key = setting.partition(".")
            kinds = list(VARIANTS[section].values()) if section in VARIANTS else [PLAIN_SECTIONS[section]]
            assert any(key in kind.model_fields for kind in kinds), setting
            assert re.fullmatch(r"[*/] [\d.]+|= .+", how), how


def test_an_unknown_code_offers_the_nearest() -> None:
    assert page_of("lr003").code == "LR003"
    with pytest.raises(InputError, match="LR003"):
        page_of("LR0003")


def test_documents_are_one_for_each_code_and_a_list() -> None:
    found = documents()
    assert found.keys() == {"README.md"} | {f"{code}.md" for code in pages()}
    assert all(f"({code}.md)" in found["README.md"] for code in pages())


def recipe(**sections: dict[str, object]) -> Recipe:
    return validate(from_dict(sections, "test"))


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"optimizer.learning_rate": "/ 10"}, ("optimizer.learning_rate=0.0003",)),
        ({"training.epochs": "* 2"}, ("training.epochs=24",)),
        ({"training.clip_norm": "= 1.0"}, ("training.clip_norm=1.0",)),
        ({"model.norm": "= batch"}, None),
        ({"model.norm": "= layer"}, ("model.norm=layer",)),
        ({"optimizer.momentum": "= 0.9"}, None),
        ({"schedule.name": "= cosine"}, None),
        ({"schedule.name": "= plateau"}, ("schedule.name=plateau",)),
        ({"optimizer.betas": "= [0.9, 0.95]"}, ("optimizer.betas=[0.9, 0.95]",)),
        ({"augment.rotate": "= 0.0", "augment.flip": "= 0.0"}, ("augment.flip=0.0",)),
        ({"training.batch_size": "* 4", "optimizer.learning_rate": "* 2"}, ("optimizer.learning_rate=0.006",)),
        ({}, ()),
    ],
)
def test_a_remedy_becomes_assignments(change: dict[str, str], settings: tuple[str, ...] | None) -> None:
    told = recipe(
        optimizer={"name": "adamw", "learning_rate": 0.003},
        training={"epochs": 12},
        model={"name": "mlp", "norm": "batch"},
        augment={"flip": 0.5},
    )
    assert settings_of(Remedy("Do it.", change), told) == settings


def test_remedies_that_mean_nothing_for_a_recipe_are_left_out() -> None:
    page = page_of("LR005")
    finding = Finding("LR005", page.title, "warning", 0.8, "It swings.", remedies=page.remedies)
    told = recipe(optimizer={"name": "adamw", "learning_rate": 0.003})
    assert [settings for _, settings in remedies_for(finding, told)] == [("optimizer.learning_rate=0.001",)]
    assert len(remedies_for(finding, None)) == len(page.remedies)
