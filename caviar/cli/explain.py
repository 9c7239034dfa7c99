"""caviar explain: the page of a finding's code."""

from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag


def explain(
    code: Annotated[
        str | None, typer.Argument(help="The code, such as LR003; without it all codes are listed.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Explain a finding by its CODE: what it sees, why it matters, what to do, when to ignore it, its source."""
    from caviar.core.findings import FAMILIES
    from caviar.diagnose.pages import page_of, pages, plain, to_dict

    output = Output(as_json, quiet)
    if code is not None:
        page = page_of(code)
        output.say(plain(page))
        output.give("explain", pages=[to_dict(page)])
        return
    for family, meaning in FAMILIES.items():
        output.say(f"{family}: {meaning}")
        output.say(*(f"  {page.code}  {page.title}" for page in pages().values() if page.family == family))
    output.give("explain", pages=[to_dict(page) for page in pages().values()])
