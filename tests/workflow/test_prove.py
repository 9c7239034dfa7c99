"""caviar.prove: remedies tried beside a control, from the last good state."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import caviar
from caviar.core.errors import InputError
from caviar.core.findings import Finding, Remedy
from caviar.core.runs import own_run
from caviar.core.store import Store
from caviar.workflow.advice import with_companions
from caviar.workflow.proof import Tried, choose_winner, judge
from caviar.workflow.prove import choose_fork, plans, prove
from caviar.workflow.show import notes_console
from caviar.workflow.trial_runs import Trial, begins_anew, run_trial
from caviar.workflow.trials_together import alike, run_trials
from caviar.workflow.try_remedies import try_remedies

QUIET = notes_console(quiet=True)


def trials(*metrics: float, codes: str = "") -> tuple[Trial, ...]:
    return tuple(Trial(metric, 0.5, 3, frozenset(codes.split())) for metric in metrics)


def tried(*metrics: float, codes: str = "", settings: str = "a.b=1") -> Tried:
    return Tried("do", (settings,), ("LR003",), trials(*metrics, codes=codes))


CONTROL = tried(0.5, 0.52, 0.51, codes="LR003 FIT001")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (tried(0.8, 0.82, 0.79), "cures"),
        (tried(0.8, 0.82, 0.79, codes="LR003"), "helps"),
        (tried(0.51, 0.95, 0.6), "cures"),  # every seed is better, however much
        (tried(0.5, 0.9, 0.51), "makes no difference"),
        (tried(0.501, 0.521, 0.511), "makes no difference"),
        (tried(0.3, 0.32, 0.31), "harms"),
        (tried(0.9, math.nan, math.nan), "fails"),
        (replace(tried(), reason="no such layer"), "is refused"),
    ],
)
def test_verdicts(found: Tried, verdict: str) -> None:
    assert judge(found, CONTROL, ("LR003",)).verdict == verdict


def test_gain_is_the_mean_over_seeds_of_differences() -> None:
    found = judge(tried(0.8, 0.82, 0.90), CONTROL, ("LR003", "FIT001", "NUM001"))
    assert found.gain == pytest.approx((0.3 + 0.3 + 0.39) / 3)
    assert found.spread == pytest.approx(0.09 / math.sqrt(3))
    assert found.cured == ("LR003", "FIT001")


def test_where_doing_nothing_diverges_whatever_lives_helps() -> None:
    gone = tried(math.nan, math.nan, codes="LR003")
    found = judge(tried(0.4, 0.5), gone, ("LR003",))
    assert (found.verdict, found.cured) == ("cures", ("LR003",))
    assert math.isnan(found.gain)
    assert judge(tried(math.nan, math.nan), gone, ("LR003",)).verdict == "fails"


def test_the_winner_is_the_best_and_of_equals_the_cheapest_that_cures() -> None:
    every = [
        judge(each, CONTROL, ("LR003",))
        for each in (
            tried(0.8, 0.8, 0.8, codes="LR003", settings="helps=1"),
            tried(0.8, 0.8, 0.801, settings="cheap=1"),
            tried(0.802, 0.8, 0.8, settings="dear=1"),
            tried(0.7, 0.7, 0.7, settings="less=1"),
            tried(0.4, 0.4, 0.4, settings="harms=1"),
        )
    ]
    winner = choose_winner(every)
    assert winner is not None
    assert winner.settings == ("cheap=1",)
    assert choose_winner(every[-1:]) is None


def test_what_begins_anew() -> None:
    assert begins_anew(("model.norm=batch",))
    assert begins_anew(("preprocess.numeric=zscore", "optimizer.learning_rate=0.1"))
    assert not begins_anew(("model.dropout=0.5", "optimizer.name=adamw", "regularization.l2=0.1"))


def digits(folder: Path, epochs: int = 5, **settings: Any) -> caviar.Run:
    return caviar.train(
        "sample:digits",
        settings={"training.epochs": epochs, "training.checkpoint_seconds": 0, "device.threads": 1, **settings},
        runs_dir=folder,
        name="it",
        progress=False,
    )


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    """A run whose rate is far too low."""
    settings = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-5}
    return digits(tmp_path_factory.mktemp("slow"), **settings)


@pytest.fixture(scope="module")
def proof(slow: caviar.Run) -> caviar.Proof:
    before = {path: path.read_bytes() for path in slow.path.rglob("*.safetensors")}
    found = prove(slow.path, seeds=2, progress=False)
    assert {path: path.read_bytes() for path in slow.path.rglob("*.safetensors")} == before
    return found


def test_a_rate_that_is_too_low_is_cured(slow: caviar.Run, proof: caviar.Proof) -> None:
    assert (proof.from_step, proof.from_epoch, proof.epochs) == (0, 0, 5)
    assert proof.winner is not None
    assert proof.winner.verdict == "cures"
    assert proof.winner.settings[0].startswith("optimizer.learning_rate=")
    assert "LR001" in proof.winner.cured
    assert max(proof.control.metrics) < 0.5 < 0.9 < min(proof.winner.metrics)
    (event,) = Store(slow.folder.store, read_only=True).events("proved")
    stored = json.loads(slow.folder.proof.read_text())
    assert stored["winner"] == event["winner"] == list(proof.winner.settings)
    assert stored["format"] == "caviar proof"


def test_the_control_of_the_first_seed_is_the_run_itself(slow: caviar.Run, proof: caviar.Proof) -> None:
    reached = [record.value for record in slow.records(name="accuracy", split="dev")]
    losses = [record.value for record in slow.records(name="loss", split="dev")]
    assert proof.control.metrics[0] == pytest.approx(reached[losses.index(min(losses))], abs=0.01)
    assert proof.control.trials[0].loss == pytest.approx(min(losses), rel=1e-4)


def test_the_winner_keeps_what_it_promises(proof: caviar.Proof, tmp_path: Path) -> None:
    """Trained by hand with the winning setting from scratch, the first seed's run comes to the same number."""
    assert proof.winner is not None
    name, value = proof.winner.settings[0].split("=")
    run = digits(tmp_path, **{"optimizer.name": "sgd", name: float(value)})
    assert run.summary["best"]["dev_accuracy"] == pytest.approx(proof.winner.metrics[0], abs=0.01)


def test_initial_weights_are_chosen_anew_for_another_activation() -> None:
    assert with_companions(("model.activation=relu",)) == (
        *("model.activation=relu", "model.init=auto"),
        "model.init_gain=auto",
    )
    assert with_companions(("model.init=auto", "model.init_gain=2.0")) == ("model.init=auto", "model.init_gain=2.0")
    assert with_companions(("optimizer.learning_rate=0.1",)) == ("optimizer.learning_rate=0.1",)


def late(code: str, step: int, *remedies: Remedy) -> Finding:
    return Finding(code, "t", "warning", 1.0, "m", step=step, remedies=remedies)


def test_a_late_fault_is_proved_from_the_last_good_state(tmp_path: Path) -> None:
    run = digits(tmp_path, epochs=6)
    per_epoch = run.summary["step"] // 6
    finding = late("NUM999", 5 * per_epoch + 2, Remedy("Lower it.", {"optimizer.learning_rate": "/ 3"}))
    fork = choose_fork(run.folder, [finding])
    assert fork.epoch == 5
    assert max(record.step for record in fork.records) == 5 * per_epoch
    assert choose_fork(run.folder, [finding, late("INIT001", 300)]).epoch == 0
    make = plans(run.recipe, None, None, allow_code=False)
    again = run_trial(make(()), fork, 6, 0)
    last = [record.value for record in run.records(name="accuracy", split="dev")][-1]
    assert (again.metric, again.epochs) == (last, 1)
    assert run_trial(make(()), fork, 6, 1).loss != again.loss
    other = run_trial(make(("optimizer.name=sgd", "optimizer.learning_rate=0.01")), fork, 6, 0)
    assert other.metric > 0.9, "the weights go on under another rule"
    found = try_remedies([finding], run.recipe, make, fork, epochs=1, seeds=1, console=QUIET)
    assert [each.anew for each in found.tried] == [False] * len(found.tried)


def test_remedies_that_cannot_be_tried_say_why(tmp_path: Path) -> None:
    run = digits(tmp_path, epochs=2)
    make = plans(run.recipe, None, None, allow_code=False)
    finding = late(
        "FIT999",
        1,
        Remedy("Get more data."),
        Remedy("Train longer.", {"training.epochs": "* 2"}),
        Remedy("Normalise.", {"model.norm": "= layer"}),
        Remedy("Take huge batches.", {"training.batch_size": "= 100000"}),
    )
    fork = choose_fork(run.folder, [finding])
    found = try_remedies([finding], run.recipe, make, fork, epochs=None, seeds=1, console=QUIET)
    assert [do for do, _ in found.untried] == ["Get more data.", "Train longer."]
    norm, batch = found.tried
    assert norm.anew
    assert norm.verdict != "is refused"
    assert batch.verdict == "is refused"
    assert "batch_size" in batch.reason
    with pytest.raises(InputError, match="none of the remedies"):
        try_remedies([late("X", 1, Remedy("Hope."))], run.recipe, make, fork, epochs=None, seeds=1, console=QUIET)


def test_a_run_that_diverged_is_cured(tmp_path: Path) -> None:
    with pytest.raises(caviar.RunError):
        digits(tmp_path, epochs=3, **{"optimizer.name": "sgd", "optimizer.learning_rate": 1e4})
    found = prove(tmp_path / "it", seeds=1, progress=False)
    assert found.control.trials[0].failed
    assert found.winner is not None
    assert found.winner.metrics[0] > 0.8


def test_data_in_memory_and_a_module_of_ones_own(tmp_path: Path) -> None:
    from torch import nn

    from tests.workflow.small import arrays

    net, data = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), arrays(rows=400)
    settings = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-6, "training.epochs": 12}
    run = caviar.train(*data, model=net, settings=settings, runs_dir=tmp_path, name="own", progress=False)
    with pytest.raises(InputError, match="Give it again"):
        prove(run.path, seeds=1, progress=False)
    found = prove(run.path, data=data, model=net, seeds=1, progress=False)
    assert found.winner is not None


def test_wrong_input(slow: caviar.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finding of this run"):
        prove(slow.path, "NUM001", progress=False)
    with pytest.raises(InputError, match="give 1 at least"):
        prove(slow.path, seeds=0, progress=False)
    with own_run(slow.path), pytest.raises(InputError, match="another process"):
        prove(slow.path, progress=False)
    with pytest.raises(InputError, match="does not exist"):
        prove(tmp_path / "nowhere", progress=False)
    many = caviar.train("sample:iris", members=2, epochs=1, runs_dir=tmp_path, progress=False)
    with pytest.raises(InputError, match="runs of one model"):
        prove(many.path, progress=False)


TOGETHER = ((), ("optimizer.learning_rate=1e-05",), ("training.clip_norm=0.5",), ("optimizer.weight_decay=3.0",))


@pytest.mark.parametrize("epoch", [0, 2])
def test_trials_together_come_to_what_each_comes_to_alone(epoch: int, tmp_path: Path) -> None:
    """Dropout and batch norm included, from the first state and from the middle of a run, for two seeds."""
    run = digits(tmp_path, epochs=4)
    make = plans(run.recipe, None, None, allow_code=False)
    fork = choose_fork(run.folder, [late("NUM999", 1 + epoch * run.summary["step"] // 4)])
    assert fork.epoch == epoch
    chosen = [make(settings) for settings in TOGETHER]
    assert len({alike(plan) for plan in chosen}) == 1
    for number in (0, 1):
        together = run_trials(chosen, fork, 4, number)
        assert together is not None
        for plan, found in zip(chosen, together, strict=True):
            alone = run_trial(plan, fork, 4, number)
            assert (found.epochs, found.codes) == (alone.epochs, alone.codes)
            assert found.loss == pytest.approx(alone.loss, rel=1e-2)
            assert found.metric == pytest.approx(alone.metric, abs=0.01)


def test_what_is_no_matter_of_numbers_trains_alone(slow: caviar.Run) -> None:
    make = plans(slow.recipe, None, None, allow_code=False)
    usual = alike(make(()))
    for other in ("model.norm=none", "optimizer.name=adamw", "loss.label_smoothing=0.1", "training.batch_size=64"):
        assert alike(make((other,))) != usual
    for own in ("optimizer.learning_rate=0.1", "model.init=zeros", "model.dropout=0.2", "regularization.l1=0.1"):
        assert alike(make((own,))) == usual
    assert alike(make(("average.name=ema",))) is None
    assert alike(make(("schedule.name=plateau",))) is None


def test_two_faults_take_two_rounds(tmp_path: Path) -> None:
    """First weights of zero, and a rate far too low: mended one after the other, and reported together."""
    faults = {"model.init": "zeros", "optimizer.learning_rate": 1e-6}
    run = digits(tmp_path, **{"model.norm": "none", "optimizer.name": "adam", **faults})
    found = prove(run.path, seeds=1, progress=False)
    assert found.winner is not None
    assert found.winner.metrics[0] > 0.9
    assert max(each.round for each in found.tried) > 1
    assert {name.split("=")[0] for name in found.winner.settings} >= {"model.init", "optimizer.learning_rate"}


def test_what_caviar_would_choose_shows_what_a_run_lacks(tmp_path: Path) -> None:
    """Nothing advises against labels smoothed away by the loss; the usual choices do better, so each is tried alone."""
    run = digits(tmp_path, **{"loss.class_weights": [1000.0] + [0.001] * 9, "model.norm": "none"})
    finding = late("FIT999", 1)
    make = plans(run.recipe, None, None, allow_code=False)
    found = try_remedies(
        [finding], run.recipe, make, choose_fork(run.folder, [finding]), epochs=None, seeds=1, console=QUIET, wide=True
    )
    assert found.winner is not None
    assert "loss.class_weights=none" in found.winner.settings
    assert len(found.winner.settings) < 4
