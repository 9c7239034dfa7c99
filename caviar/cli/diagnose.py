"""caviar diagnose: what a run's records mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from caviar.core.findings import Finding
    from caviar.workflow.diagnose import RunDiagnosis


def diagnose(
    run: Annotated[Path, typer.Argument(help="The run's folder: runs/NAME. It may still be going.")],
    fail_on: Annotated[
        Literal["info", "warning", "error", "never"],
        typer.Option(help="Leave with exit code 1 when there is a finding as bad as this, or worse."),
    ] = "never",
    prove: Annotated[
        bool, typer.Option("--prove", help="Try the remedies in short runs beside an untouched control; takes a while.")
    ] = False,
    code: Annotated[str | None, typer.Option(help="With --prove: the finding to prove, such as LR003.")] = None,
    epochs: Annotated[int | None, typer.Option(help="With --prove: epochs of each short run.")] = None,
    seeds: Annotated[int | None, typer.Option(help="With --prove: short runs of each remedy (3).")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="With --prove: let the recipe's model.name run Python code.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show consequences in full, and which rules stayed silent, and why.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Read the records of RUN and say what is wrong with its training, with evidence and remedies."""
    from caviar.core.errors import InputError
    from caviar.workflow.diagnose import diagnose_run

    output = Output(as_json, quiet)
    if not prove and (given := [n for n, v in {"--code": code, "--epochs": epochs, "--seeds": seeds}.items() if v]):
        raise InputError(f"{' and '.join(given)} is for --prove. Add it, or leave {given[0]} out.")
    found = diagnose_run(run)
    output.say(*_lines(found, verbose=verbose))
    proof = _prove(output, run, code, epochs, seeds, allow_code=allow_code) if prove else None
    output.give(
        "diagnose",
        run=str(run),
        status=found.status,
        records=found.num_records,
        worst=found.diagnosis.worst(),
        findings=[_described(found, finding) for finding in found.diagnosis.findings],
        silent=[silent._asdict() for silent in found.diagnosis.silent],
        **({} if proof is None else {"proof": proof}),
    )
    if fail_on != "never" and found.diagnosis.at_least(fail_on):
        raise typer.Exit(1)


def _prove(
    output: Output, run: Path, code: str | None, epochs: int | None, seeds: int | None, *, allow_code: bool
) -> dict[str, Any]:
    from caviar.workflow.prove import SEEDS, prove
    from caviar.workflow.show_proof import proof_tables

    seeds = SEEDS if seeds is None else seeds
    proof = prove(run, code, epochs=epochs, seeds=seeds, allow_code=allow_code, progress=not output.quiet)
    output.say(*proof_tables(proof))
    return proof.to_dict()


def _described(found: "RunDiagnosis", finding: "Finding") -> dict[str, Any]:
    from caviar.workflow.remedies import remedies_for

    settings = {remedy.do: list(chosen) for remedy, chosen in remedies_for(finding, found.recipe)}
    value = finding.to_dict()
    remedies = [
        {**remedy, "settings": settings[remedy["do"]]} for remedy in value["remedies"] if remedy["do"] in settings
    ]
    return {**value, "remedies": remedies}


def _lines(found: "RunDiagnosis", *, verbose: bool) -> list[str]:
    from caviar.diagnose.rules import CROSS_RULES, RULES

    findings, silent = found.diagnosis.findings, found.diagnosis.silent
    quiet = len({each.code for each in silent})
    lines = [
        f"{found.folder.path} ({found.status}): {len(findings) or 'no'} finding{'s' * (len(findings) != 1)} from "
        f"{found.num_records:,} records by {len(RULES) + len(CROSS_RULES) - quiet} rules; {quiet} stayed silent."
    ]
    causes = [finding for finding in findings if verbose or not finding.consequence_of]
    for finding in causes:
        lines += ["", *_finding_lines(found, finding)]
    if verbose:
        lines += ["", "Silent:" if silent else "No rule stayed silent."]
        lines += [f"  {each.code}{_member(each.member)}: {each.reason}" for each in silent]
    elif silent:
        lines += ["", "--verbose tells why rules stayed silent."]
    return lines


def _finding_lines(found: "RunDiagnosis", finding: "Finding") -> list[str]:
    from caviar.workflow.remedies import remedies_for

    lines = [
        f"{finding.severity} {finding.code}{_member(finding.member)}: {finding.title} ({finding.confidence:.0%} sure)",
        f"  {finding.message}",
    ]
    if finding.consequence_of:
        return [*lines, f"  Likely a consequence of {finding.consequence_of}."]
    explained = [
        f.code for f in found.diagnosis.findings if (f.consequence_of, f.member) == (finding.code, finding.member)
    ]
    if explained:
        lines.append(f"  It explains {', '.join(dict.fromkeys(explained))}.")
    if finding.severity != "info":
        for number, (remedy, settings) in enumerate(remedies_for(finding, found.recipe), start=1):
            how = "".join(f" --set {assignment}" for assignment in settings)
            lines.append(f"  {number}. {remedy.do}{f'  [{how.strip()}]' if how else ''}")
    return [*lines, f"  More: caviar explain {finding.code}"]


def _member(member: int | None) -> str:
    return f" of member {member}" if member else ""
