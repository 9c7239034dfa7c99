"""caviar check: table, JSON and exit codes."""

from tests.cli.conftest import Caviar

FAST = ["--mute", "FIT101", "--mute", "DATA001", "--mute", "DATA105", "--mute", "GRAD101"]


def test_a_failing_check_is_shown_with_its_remedy(caviar: Caviar) -> None:
    done = caviar("check", "sample:iris", "--set", "optimizer.learning_rate=30", *FAST)
    assert done.code == 1
    line = next(line for line in done.out.splitlines() if line.startswith("LR002"))
    assert "fail" in line
    assert "What to try:" in done.out
    assert "  LR002: Begin near" in done.out
    assert "FIT101" not in done.out
    given = caviar("check", "sample:iris", "--set", "optimizer.learning_rate=30", *FAST, "--json")
    assert given.code == 1
    assert (given.json["failed"], given.json["format"]) == (1, "caviar check")
    (failing,) = (each for each in given.json["checks"] if each["status"] == "fail")
    assert failing["numbers"]["learning_rate"] == 30
    assert failing["remedy"]


def test_a_healthy_set_up_passes(caviar: Caviar) -> None:
    done = caviar("check", "sample:iris")
    assert done.code == 0, done.out
    assert "0 failed" in done.out
    assert "What to try" not in done.out


def test_wrong_input(caviar: Caviar) -> None:
    assert caviar("check").code == 2
    done = caviar("check", "sample:iris", "--mute", "LR0011")
    assert done.code == 2
    assert "Did you mean 'LR001'" in done.err
    assert caviar("check", "nowhere.csv", "--target", "y").code == 2
    recipe = 'model.name = "os.path:join"'
    assert "--allow-code" in caviar("check", "sample:iris", "--set", recipe.replace(" ", "")).err
