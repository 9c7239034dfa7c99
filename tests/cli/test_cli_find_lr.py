"""caviar find-lr: table, picture, JSON and wrong input."""

from tests.cli.conftest import Caviar

FEW = ["--rates", "6", "--seeds", "2", "--steps", "20"]


def test_ranges_are_shown_and_drawn(caviar: Caviar) -> None:
    done = caviar("find-lr", "sample:iris", *FEW, "--output", "rates")
    assert done.code == 0, done.err
    assert "Begin with" in done.out or "may be better still" in done.out
    assert "--set optimizer.learning_rate=" in done.out
    assert "rates.svg" in done.out
    given = caviar("find-lr", "sample:iris", *FEW, "--json").json
    assert given["suggestion"] > 0
    assert len(given["rates"]) == 6
    assert given["seeds"] == len(given["rates"][0]["losses"]) == 2


def test_wrong_input(caviar: Caviar) -> None:
    assert caviar("find-lr").code == 2
    assert "0 < low < high" in caviar("find-lr", "sample:iris", "--low", "5", "--high", "1").err
    assert ".svg" in caviar("find-lr", "sample:iris", "--output", "rates.png").err
    assert caviar("find-lr", "sample:iris", "--set", "optimizer.name=newton").code == 2
