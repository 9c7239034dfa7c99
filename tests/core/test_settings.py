import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from caviar.core.device_settings import DeviceSettings
from caviar.core.settings import Auto, NoneWord, Settings


class Inner(Settings):
    """A section within a section."""

    rate: Annotated[float, Field(gt=0)] = 0.1
    """how fast"""


class Sample(Settings):
    """One setting of every kind."""

    flag: bool = False
    count: Auto | Annotated[int, Field(ge=1)] = "auto"
    rate: float | NoneWord = "none"
    word: Literal["a", "b"] = "a"
    widths: Auto | tuple[int, ...] = "auto"
    size: Auto | tuple[int, int] = "auto"
    inner: Inner = Inner()
    free: Annotated[dict[str, Any], Field(default_factory=dict)]


def refused(**changes: Any) -> list[str]:
    """The kinds of error that `changes` cause."""
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(changes)
    return [error["type"] for error in caught.value.errors()]


def test_unknown_keys_are_refused_at_every_depth() -> None:
    assert refused(flagg=True) == ["extra_forbidden"]
    assert refused(inner={"rat": 1.0}) == ["extra_forbidden"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(value: float) -> None:
    assert "finite_number" in refused(rate=value)
    assert refused(inner={"rate": value}) == ["finite_number"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True),
        ("count", "5"),
        ("count", 5.0),
        ("rate", "0.5"),
        ("rate", True),
        ("flag", 1),
        ("flag", "yes"),
        ("word", "c"),
        ("widths", [1, "2"]),
        ("widths", [1, True]),
        ("size", [1, 2, 3]),
        ("size", 3),
        ("inner", None),
    ],
)
def test_nothing_is_silently_turned_into_something_else(name: str, value: object) -> None:
    assert refused(**{name: value})


def test_lists_become_tuples_and_whole_numbers_may_stand_for_fractions() -> None:
    sample = Sample.model_validate({"widths": [3, 4], "size": [32, 48], "rate": 1, "inner": {"rate": 2}})
    assert sample.widths == (3, 4)
    assert sample.size == (32, 48)
    assert sample.rate == 1.0
    assert type(sample.rate) is float
    assert sample.inner == Inner(rate=2.0)
    assert Sample.model_validate({"free": {"sizes": [1, 2]}}).free == {"sizes": [1, 2]}


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample().flag = True  # type: ignore[misc]


def test_docstrings_become_descriptions() -> None:
    assert Inner.model_fields["rate"].description == "how fast"


@given(
    st.builds(
        dict,
        flag=st.booleans(),
        count=st.just("auto") | st.integers(1, 10**9),
        rate=st.just("none") | st.floats(allow_nan=False, allow_infinity=False),
        word=st.sampled_from("ab"),
        widths=st.just("auto") | st.lists(st.integers(1, 99), max_size=4),
        inner=st.builds(dict, rate=st.floats(1e-9, 1e9)),
    )
)
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    sample = Sample.model_validate(values)
    assert Sample.model_validate(sample.model_dump()) == sample
    assert Sample.model_validate(sample.model_dump(mode="json")) == sample
    assert Sample.model_validate_json(sample.model_dump_json()) == sample


def test_device_settings() -> None:
    assert DeviceSettings() == DeviceSettings(name="auto", threads="auto", precision="float32", compile=False)
    for wrong in ({"threads": 0}, {"threads": True}, {"precision": "float16"}, {"name": 1}, {"compile": 1}):
        with pytest.raises(ValidationError):
            DeviceSettings.model_validate(wrong)
