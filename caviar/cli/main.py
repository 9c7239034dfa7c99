"""The command line: parse, call, print, and leave with an exit code that scripts can use.

0 done, 1 the run failed, 2 wrong input or usage, 130 interrupted (SIGINT or SIGTERM).
"""

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from caviar import __version__
from caviar.cli.evaluate import evaluate
from caviar.cli.predict import predict
from caviar.cli.recipe import recipe
from caviar.cli.runs import runs
from caviar.cli.train import train
from caviar.core.errors import CaviarError, Interrupted

app = typer.Typer(
    name="caviar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, recipe, evaluate, predict, runs):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"caviar {__version__}")
        raise typer.Exit


@app.callback()
def caviar(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train neural networks well: from a table, a folder of pictures or arrays to a reusable model."""


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    code = _run()
    sys.stdout.flush()
    sys.exit(code)


def _run() -> int:
    try:
        result = app(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CaviarError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except typer.Abort as error:  # how typer passes a KeyboardInterrupt on
        return _interrupted(error.__cause__ or error.__context__)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail again
        return 1
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error of typer, whichever click it carries
        if show is None:
            raise
        show()
        return 2


def _interrupted(error: BaseException | None) -> int:
    print(str(error) if isinstance(error, Interrupted) else "stopped", file=sys.stderr)
    return Interrupted.exit_code


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
