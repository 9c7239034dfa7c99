"""Runs of many members: what is recorded of each, and what rules make of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import caviar
from caviar.core.errors import InputError
from caviar.core.store import Store
from caviar.diagnose.engine import diagnose
from caviar.diagnose.facts import Facts, differences, member_facts, merged
from caviar.diagnose.groups import grouped, line_of, members_in_words
from caviar.diagnose.live_members import LiveMembers
from caviar.diagnose.quantities import QUANTITIES
from caviar.train.judge import confusion_of
from caviar.workflow.diagnose import diagnose_run
from tests.diagnose.stories import FACTS, healthy, records, story
from tests.workflow.test_members import train, weights

RATES = [1e-7, 0.05, 0.1, 1e7]
WILD: dict[str, Any] = {"population.learning_rate": RATES, "training.batch_size": 8}


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    """One rate far too low, two good ones, and one with which all is lost in the first epoch."""
    return train(tmp_path_factory.mktemp("runs"), "wild", members=4, epochs=8, settings=WILD)


def test_every_member_has_its_own_records(wild: caviar.Run) -> None:
    found = wild.records()
    assert {record.name for record in found} <= QUANTITIES.keys()
    looked = {trial: {r.step for r in found if r.trial == trial and r.name == "weight_norm"} for trial in range(4)}
    assert looked[1] == looked[2] == {1, 4, 16, 64}
    assert looked[3] == {1, 4}
    wanted = {"accuracy", "gap", "loss_gap", "evaluated_loss", "balanced_accuracy", "smoothed_loss", "input_shift"}
    assert wanted <= {record.name for record in found if record.trial == 2}
    ratio = {r.trial: r.value for r in found if (r.name, r.step, r.layer) == ("update_ratio", 1, "")}
    assert ratio[0] / RATES[0] == pytest.approx(ratio[1] / RATES[1], rel=0.5)
    gap = next(r for r in found if (r.name, r.trial) == ("gap", 1))
    train_metric = next(r for r in found if (r.name, r.trial, r.split, r.step) == ("accuracy", 1, "train", gap.step))
    dev_metric = next(r for r in found if (r.name, r.trial, r.split, r.step) == ("accuracy", 1, "dev", gap.step))
    assert gap.value == pytest.approx(train_metric.value - dev_metric.value)


def test_findings_name_the_trials_that_have_them(wild: caviar.Run) -> None:
    found = diagnose_run(wild.path)
    assert found.members == 4
    assert found.fates == {3: "diverged"}
    groups = {group.finding.code: group.members for group in grouped(found.diagnosis.findings)}
    assert groups["LR001"] == (0,)
    assert 3 in groups["LR003"] or 3 in groups["NUM001"]
    assert not {1, 2} & {f.member for f in found.diagnosis.findings if f.severity == "error"}
    stored = {finding["code"]: tuple(finding["members"]) for finding in wild.summary["findings"]}
    assert stored == groups
    alone = diagnose_run(wild.path, trial=0)
    assert {f.member for f in alone.diagnosis.findings} <= {0, None}
    assert [f for f in alone.diagnosis.findings if f.code == "LR001"]
    assert all(silent.reason for silent in found.diagnosis.silent)
    with pytest.raises(InputError, match=r"no records of trial 4\. There are records of trials 0 to 3"):
        diagnose_run(wild.path, trial=4)


def test_remedies_leave_alone_what_members_differ_in(wild: caviar.Run) -> None:
    from caviar.workflow.remedies import remedies_for

    found = diagnose_run(wild.path)
    (low,) = [f for f in found.diagnosis.findings if f.code == "LR001"]
    settings = [setting for _, given in remedies_for(low, found.recipe) for setting in given]
    assert not [setting for setting in settings if "learning_rate" in setting]


def test_watching_changes_nothing(tmp_path: Path) -> None:
    settings = {"watch.every": 3, "watch.quantities": "full", "population.executor": "stacked"}
    watched = train(tmp_path, "watched", members=3, epochs=2, settings=settings)
    blind = {"watch.quantities": "none", "watch.findings": "none", "population.executor": "stacked"}
    plain = train(tmp_path, "plain", members=3, epochs=2, settings=blind)
    one, other = weights(watched), weights(plain)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {record.name for record in plain.records()} == {"batch_loss", "loss", "accuracy", "learning_rate"}
    assert plain.summary.get("findings") is None
    found = diagnose_run(plain.path)
    assert "there are no records of" in " ".join(silent.reason for silent in found.diagnosis.silent)


def test_records_cut_short_and_facts_that_are_gone(wild: caviar.Run, tmp_path: Path) -> None:
    run = train(tmp_path, "cut", members=4, epochs=2, settings=WILD)
    with Store(run.folder.store) as store:
        store.delete_after(5)
    run.folder.write_summary(status="running")
    found = diagnose_run(run.path)
    assert (found.status, found.fates) == ("stopped", {})
    facts = run.folder.facts.read_text()
    for damage in ("", facts[:200], facts.replace('"members": {', '"members": [1], "other": {')):
        run.folder.facts.write_text(damage)
        assert diagnose_run(run.path).members == 4


def test_cohorts_are_diagnosed_together(tmp_path: Path) -> None:
    vary = {"model.widths": [[8], [8], [12], [12]], "optimizer.learning_rate": [1e-7, 0.05, 1e-7, 0.1]}
    run = train(tmp_path, "cohorts", members=4, epochs=8, settings={"population.vary": vary, "training.batch_size": 8})
    groups = {group.finding.code: group.members for group in grouped(diagnose_run(run.path).diagnosis.findings)}
    assert groups["LR001"] == (0, 2)
    assert {f["code"]: tuple(f["members"]) for f in run.summary["findings"]} == groups


def test_members_of_a_made_up_run_are_told_of_together() -> None:
    bad = story({("update_ratio", "train", ""): 1e-9, "batch_loss": lambda _, __: 2.3})
    stories = {trial: replace(bad, member=trial) if trial in (1, 2, 3) else story() for trial in range(5)}
    groups = grouped(diagnose(stories, compare=False).findings)
    (low,) = [group for group in groups if group.finding.code == "LR001"]
    assert low.members == (1, 2, 3)
    assert "in 3 of 5 trials (1 to 3): trial 1: " in line_of(low.to_dict(), 5)


def test_the_best_at_the_edge_of_what_was_tried() -> None:
    found: dict[int, Any] = {}
    for trial in range(5):
        better = {("accuracy", "dev", ""): lambda _, value, trial=trial: value * (0.5 + 0.1 * trial)}
        found[trial] = story(better, {"chosen": {"dropout": 0.1 * trial}})
    edge = [f for f in diagnose(found).findings if f.code == "SEARCH001"]
    assert len(edge) == 1
    assert edge[0].member is None
    assert "dropout 0.4, the largest of 5 values" in edge[0].message
    found[3].failed = found[4].failed = True
    assert [f for f in diagnose(found).findings if f.code == "SEARCH002"]


def test_live_findings_are_told_once_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("caviar.diagnose.live_members.time.monotonic", lambda: now)
    lines: list[str] = []
    live = LiveMembers(dict.fromkeys(range(4), FACTS), lines.append)
    curves = healthy()
    low = curves | {
        ("update_ratio", "train", ""): dict.fromkeys(curves["update_ratio", "train", ""], 1e-9),
        ("batch_loss", "train", ""): dict.fromkeys(curves["batch_loss", "train", ""], 2.3),
    }
    for trial in range(4):
        live.take(list(records(low if trial else curves, trial)))
    assert not lines
    now = 1e3
    for _ in range(2):
        live._next = 0.0
        live.take([])
        now += 1e3
    told = [line for line in lines if "LR001" in line]
    assert len(told) == 1
    assert "in 3 of 4 trials (1 to 3)" in told[0]
    live.end(0, diverged=True)
    diagnosis = live.read(finished=True)
    assert not live.stories[0].finished
    assert live.stories[1].finished
    live.tell_rest(diagnosis)
    assert len([line for line in lines if "LR001" in line]) == 1


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((), ""),
        ((3,), "trial 3"),
        ((0, 1), "2 of 9 trials (0 and 1)"),
        ((0, 3, 4, 5, 7, 8), "6 of 9 trials (0, 3 to 5, 7 and 8)"),
        (tuple(range(9)), "all 9 trials"),
    ],
)
def test_members_in_words(members: tuple[int, ...], words: str) -> None:
    assert members_in_words(members, 9) == words


def test_facts_of_members_come_back() -> None:
    own = member_facts(FACTS, {"clip_norm": 0.5, "beta1": 0.8})
    assert (own.clip_norm, own.chosen) == (0.5, {"clip_norm": 0.5, "beta1": 0.8})
    assert merged(FACTS, differences(own, FACTS)) == own
    assert merged(FACTS, {}) == FACTS
    assert Facts.from_dict({"chosen": [1, 2]}).chosen == {}


def test_confusions_of_members() -> None:
    labels, predicted = torch.tensor([0, 1, 2, 2]), torch.tensor([[0, 1, 2, 2], [2, 2, 2, 0]])
    found = confusion_of(labels, predicted, 3)
    for counts, row in zip(found, predicted.tolist(), strict=True):
        for true in range(3):
            for seen in range(3):
                assert counts[true, seen] == sum(
                    pair == (true, seen) for pair in zip(labels.tolist(), row, strict=True)
                )
