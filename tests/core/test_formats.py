import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core import formats
from caviar.core.errors import InputError
from caviar.core.formats import check_version


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_this_and_older_versions_are_read(found: int, younger: int) -> None:
    check_version("bundle", found, found + younger, "somewhere")


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_newer_version_is_refused_by_name(supported: int, ahead: int) -> None:
    with pytest.raises(InputError) as caught:
        check_version("bundle", supported + ahead, supported, "runs/a/bundle")
    message = str(caught.value)
    assert message.startswith(f"runs/a/bundle: this bundle has format version {supported + ahead}")
    assert f"up to version {supported}" in message
    assert "Upgrade caviar" in message


@pytest.mark.parametrize("found", [None, "1", 1.0, True, 0, -1, [1], float("nan")])
def test_what_is_no_version_is_refused(found: object) -> None:
    with pytest.raises(InputError, match="not a caviar recipe: its format version is"):
        check_version("recipe", found, 1, "a.toml")


def test_every_format_has_a_version() -> None:
    names = ("RECIPE", "STORE", "CHECKPOINT", "BUNDLE", "JSON_OUTPUT", "CACHE", "RUN")
    for name in names:
        check_version(name, getattr(formats, name), getattr(formats, name), "here")
