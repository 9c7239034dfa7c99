"""The command line: parse, call, print, and leave with an exit code that scripts can use.

0 done, 1 the run failed, 2 wrong input or usage, 130 interrupted (SIGINT or SIGTERM).
"""

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from caviar import __version__
from caviar.cli.check import check
from caviar.cli.diagnose import diagnose
from caviar.cli.evaluate import evaluate
from caviar.cli.explain import explain
from caviar.cli.find_lr import find_lr
from caviar.cli.output import give_error
from caviar.cli.predict import predict
from caviar.cli.recipe import recipe
from caviar.cli.runs import runs
from caviar.cli.train import train
from caviar.cli.verify import verify
from caviar.core.errors import CaviarError, Interrupted


class _StoppedError(Exception):
    """Carries a KeyboardInterrupt past typer, which would drop what it has to say."""


def _past_typer(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise _StoppedError from error

    return call


app = typer.Typer(
    name="caviar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, summary in (
    (train, "Train on a table, pictures, arrays or a recipe."),
    (recipe, "Print the complete recipe that caviar would use."),
    (check, "Look for faults before the long run."),
    (find_lr, "Find a learning rate."),
    (evaluate, "Compare a trained model with known targets."),
    (predict, "Predict new rows or pictures."),
    (diagnose, "Say what is wrong with a run's training."),
    (explain, "Explain the code of a finding."),
    (runs, "List the runs."),
    (verify, "Check that populations keep their promises here."),
):
    app.command(short_help=summary)(_past_typer(command))


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (`arguments`, or else those of the process) and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _terminate)
    code = _run(given)
    sys.stdout.flush()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        result = app(arguments, prog_name="caviar", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CaviarError as error:
        return _failed(arguments, f"error: {error}", str(error), error.exit_code)
    except _StoppedError as error:
        return _interrupted(arguments, error.__cause__)
    except (KeyboardInterrupt, typer.Abort) as error:  # before a command has begun
        return _interrupted(arguments, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail again
        return 1
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error of typer, whichever click it carries
        if show is None:
            raise
        show()
        give_error(arguments, str(getattr(error, "message", error)), 2)
        return 2


def _interrupted(arguments: list[str], error: BaseException | None) -> int:
    message = str(error) if isinstance(error, Interrupted) else "stopped"
    return _failed(arguments, message, message, Interrupted.exit_code)


def _failed(arguments: list[str], line: str, message: str, code: int) -> int:
    print(line, file=sys.stderr)
    give_error(arguments, message, code)
    return code


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
