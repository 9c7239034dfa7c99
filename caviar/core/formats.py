"""Versions of everything that caviar writes. A file from a newer caviar is refused by name, never guessed at."""

from typing import Any, Final

from caviar.core.errors import InputError

RECIPE: Final = 1
STORE: Final = 1
CHECKPOINT: Final = 1
BUNDLE: Final = 1
JSON_OUTPUT: Final = 1
CACHE: Final = 1
RUN: Final = 1
FACTS: Final = 1
PROOF: Final = 1


def check_version(kind: str, found: Any, supported: int, where: object) -> None:
    """Refuse a `kind` of file whose format version is missing, malformed or newer than `supported`."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        known = "1" if supported == 1 else f"a number from 1 to {supported}"
        raise InputError(f"{where}: not a caviar {kind}: its format version is {found!r}, expected {known}.")
    if found > supported:
        raise InputError(
            f"{where}: this {kind} has format version {found}, written by a newer caviar; this one reads up to version "
            f"{supported}. Upgrade caviar to read it."
        )
