"""How every command speaks: with --json one object on stdout and all else on stderr; with --quiet only errors."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caviar.core.formats import JSON_OUTPUT
from caviar.core.jsonable import jsonable

if TYPE_CHECKING:
    from rich.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors (and the JSON, with --json).")]
ProductQuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result and errors.")]
PredictionOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="prediction.KEY=VALUE", help="How to predict, such as prediction.views=flip."),
]

PLAIN_WIDTH = 120
"""Columns of tables where stdout is a file or a pipe."""


@dataclass(frozen=True)
class Output:
    """Where a command's words go."""

    as_json: bool
    quiet: bool

    def console(self) -> "Console":
        """Return the console for progress and notes: always stderr."""
        from caviar.workflow.show import notes_console

        return notes_console(quiet=self.quiet)

    def note(self, notices: Iterable[str]) -> None:
        """Print notices on stderr."""
        from caviar.workflow.show import print_notes

        if not self.quiet:
            print_notes(self.console(), notices)

    def say(self, *things: Any) -> None:
        """Print text or tables for a person: on stdout, or on stderr beside --json."""
        if self.quiet:
            return
        from rich.console import Console

        # Names from data are printed as they are: no markup, no emoji, no colouring of numbers.
        console = Console(stderr=self.as_json, highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            console.width = max(console.width, PLAIN_WIDTH)
        for thing in things:
            console.print(thing, soft_wrap=isinstance(thing, str))

    def give(self, kind: str, **fields: Any) -> None:
        """Print the one JSON object of a command, when it was asked for."""
        if self.as_json:
            _print_json(kind, fields)


def check_destination(path: Path, what: str) -> None:
    """Refuse, before long work, a file (`what`) that cannot be written."""
    from caviar.core.errors import InputError

    if path.is_dir():
        raise InputError(f"{path}: a folder. Name {what} to write: --output {path / 'NAME'}.")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist. Make it first, or name another file.")


def give_error(arguments: Sequence[str], message: str, exit_code: int) -> None:
    """Print the JSON object of a command that failed, when its arguments ask for JSON."""
    if "--json" in arguments:
        _print_json("error", {"exit_code": exit_code, "error": message})


def _print_json(kind: str, fields: dict[str, Any]) -> None:
    value = {"format": f"caviar {kind}", "version": JSON_OUTPUT, **fields}
    print(json.dumps(jsonable(value), indent=2, allow_nan=False))
