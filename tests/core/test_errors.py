import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import (
    MOST_NAMES,
    CaviarError,
    InputError,
    Interrupted,
    RunError,
    nearest,
    unknown_name,
)


@pytest.mark.parametrize(("error", "code"), [(CaviarError, 1), (InputError, 2), (RunError, 1), (Interrupted, 130)])
def test_exit_codes(error: type[BaseException], code: int) -> None:
    assert error("why").exit_code == code  # type: ignore[attr-defined]


def test_an_interruption_is_not_swallowed_by_except_exception() -> None:
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)
    assert issubclass(InputError, CaviarError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("learnin_rate", "learning_rate"), ("LEARNING_RATE", "learning_rate"), ("epoch", "epochs"), ("xyzzy", None)],
)
def test_nearest(name: str, expected: str | None) -> None:
    assert nearest(name, ["learning_rate", "epochs", "Seed"]) == expected


def test_nearest_returns_the_option_as_it_is_spelt() -> None:
    assert nearest("seed", ["learning_rate", "SEED"]) == "SEED"
    assert nearest("anything", []) is None


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_a_name_that_exists_is_its_own_nearest(options: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(options))
    found = nearest(name, options)
    assert found is not None
    assert found.lower() == name.lower()


def test_unknown_name_offers_the_nearest_and_lists_the_others() -> None:
    message = str(unknown_name("optimizer", "adamm", ["sgd", "adamw", "adam"]))
    assert message == "unknown optimizer 'adamm'. Did you mean 'adam'? Known: adam, adamw, sgd."


def test_unknown_name_without_a_near_one_or_any_at_all() -> None:
    assert str(unknown_name("optimizer", "zzz", ["sgd"])) == "unknown optimizer 'zzz'. Known: sgd."
    assert str(unknown_name("column", "zzz", [])) == "unknown column 'zzz'."


def test_unknown_name_does_not_list_thousands() -> None:
    message = str(unknown_name("column", "incme", ["income", *(f"c{i:04}" for i in range(5000))]))
    assert "Did you mean 'income'?" in message
    assert message.endswith(f"and {5001 - MOST_NAMES} more.")
    assert len(message) < 400
