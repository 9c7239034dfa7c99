"""How every command speaks: with --json one object on stdout and all else on stderr; with --quiet only errors."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caviar.core.formats import JSON_OUTPUT
from caviar.core.jsonable import jsonable

if TYPE_CHECKING:
    from rich.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors (and the JSON, with --json).")]


@dataclass(frozen=True)
class Output:
    """Where a command's words go."""

    as_json: bool
    quiet: bool

    def console(self) -> "Console":
        """Return the console for progress and notes: always stderr."""
        from rich.console import Console

        return Console(stderr=True, quiet=self.quiet)

    def say(self, *things: Any) -> None:
        """Print text or tables for a person: on stdout, or on stderr beside --json."""
        if self.quiet:
            return
        from rich.console import Console

        console = Console(stderr=self.as_json, highlight=False, soft_wrap=True)
        for thing in things:
            console.print(thing, markup=False) if isinstance(thing, str) else console.print(thing)

    def give(self, kind: str, **fields: Any) -> None:
        """Print the one JSON object of a command, when it was asked for."""
        if self.as_json:
            value = {"format": f"caviar {kind}", "version": JSON_OUTPUT, **fields}
            print(json.dumps(jsonable(value), indent=2, allow_nan=False))
