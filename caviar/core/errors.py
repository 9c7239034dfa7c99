"""What caviar raises. Every message says what arrived, where, which rule it breaks and what to do."""

import difflib
from collections.abc import Iterable

MOST_NAMES = 20
"""A message lists at most so many of the names there are: a table may have thousands of columns."""


class CaviarError(Exception):
    """Base of every error that caviar raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(CaviarError):
    """The data, recipe, file or argument that was given cannot be used as it is (exit code 2)."""

    exit_code = 2


class DamagedError(InputError):
    """A file of caviar's own is cut, changed, or not what its name says: another one may do instead."""


class RunError(CaviarError):
    """The run itself failed after its input was accepted (exit code 1)."""

    exit_code = 1


class DivergedError(RunError):
    """The loss or the weights left the finite numbers: going on from the last good state would meet the same."""


class Interrupted(KeyboardInterrupt):
    """Training stopped on request after finishing its step and saving; the message says how to go on."""

    exit_code = 130


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that looks most like `name`, or None when nothing is near."""
    candidates = list(options)
    lowered = {option.lower(): option for option in candidates}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def unknown_name(kind: str, name: str, options: Iterable[str]) -> InputError:
    """Build the error for a name that does not exist, offering the nearest one that does."""
    allowed = sorted(options)
    near = nearest(name, allowed)
    hint = f" Did you mean {near!r}?" if near else ""
    rest = f" and {len(allowed) - MOST_NAMES} more" if len(allowed) > MOST_NAMES else ""
    known = f" Known: {', '.join(allowed[:MOST_NAMES])}{rest}." if allowed else ""
    return InputError(f"unknown {kind} {name!r}.{hint}{known}")
