"""caviar diagnose: what a run's records mean."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caviar.core.findings import Finding
    from caviar.diagnose.groups import Group
    from caviar.workflow.diagnose import RunDiagnosis


def diagnose(
    run: Annotated[Path, typer.Argument(help="The run's folder: runs/NAME. It may still be going.")],
    fail_on: Annotated[
        Literal["info", "warning", "error", "never"],
        typer.Option(help="Leave with exit code 1 when there is a finding as bad as this, or worse."),
    ] = "never",
    trial: Annotated[
        int | None, typer.Option(help="Of a run of many members: the trial to look at by itself.", min=0)
    ] = None,
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
    from caviar.diagnose.groups import grouped
    from caviar.workflow.diagnose import diagnose_run

    output = Output(as_json, quiet)
    if not prove and (given := [n for n, v in {"--code": code, "--epochs": epochs, "--seeds": seeds}.items() if v]):
        raise InputError(f"{' and '.join(given)} is for --prove. Add it, or leave {given[0]} out.")
    found = diagnose_run(run, trial)
    together = found.members > 1 and trial is None
    groups = grouped(found.diagnosis.findings) if together else []
    output.say(*(_group_lines if together else _lines)(found, verbose=verbose))
    proof = _prove(output, run, code, epochs, seeds, allow_code=allow_code) if prove else None
    output.give(
        "diagnose",
        run=str(run),
        status=found.status,
        records=found.num_records,
        members=found.members,
        **({} if trial is None else {"trial": trial}),
        worst=found.diagnosis.worst(),
        findings=[_described(found, finding) for finding in found.diagnosis.findings],
        **({"groups": [group.to_dict() for group in groups]} if together else {}),
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
        f"{found.folder.path} ({found.status}): {_counted(len(findings), 'finding')} from "
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


def _finding_lines(found: "RunDiagnosis", finding: "Finding", members: "Sequence[int] | None" = None) -> list[str]:
    from caviar.workflow.remedies import remedies_for

    whose = _member(finding.member) if members is None else _of(found, members)
    lines = [
        f"{finding.severity} {finding.code}{whose}: {finding.title} ({finding.confidence:.0%} sure)",
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


def _group_lines(found: "RunDiagnosis", *, verbose: bool) -> list[str]:
    """Say what was found in many members: those of one code together, the worst of them in full."""
    from caviar.diagnose.groups import grouped

    findings = found.diagnosis.findings
    groups = [group for group in grouped(findings) if verbose or not group.finding.consequence_of]
    warned = {finding.member for finding in findings if finding.severity != "info" and finding.member is not None}
    lines = [
        f"{found.folder.path} ({found.status}): {_counted(len(groups), 'kind')} of findings in {found.members} trials "
        f"from {found.num_records:,} records; {_counted(found.members - len(warned), 'trial')} without a warning."
    ]
    for group in groups:
        lines += ["", *_one_group(found, group)]
    lines += ["", f"One trial by itself: caviar diagnose {shlex.quote(str(found.folder.path))} --trial N"]
    silent: dict[tuple[str, str], list[int]] = {}
    for each in found.diagnosis.silent:
        silent.setdefault((each.code, each.reason), []).extend([] if each.member is None else [each.member])
    if not verbose:
        return [*lines, "--verbose tells why rules stayed silent."] if silent else lines
    lines += ["", "Silent:" if silent else "No rule stayed silent."]
    return lines + [f"  {code}{_of(found, members)}: {reason}" for (code, reason), members in sorted(silent.items())]


def _one_group(found: "RunDiagnosis", group: "Group") -> list[str]:
    finding = group.finding
    lines = _finding_lines(found, finding, group.members)
    if len(group.members) > 1:
        lines[1] = f"  Worst in trial {finding.member}: {finding.message}"
    return lines


def _of(found: "RunDiagnosis", members: "Sequence[int]") -> str:
    from caviar.diagnose.groups import members_in_words

    words = members_in_words(members, found.members)
    return f" in {words}" if words else ""


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'s' * (count != 1)}"


def _member(member: int | None) -> str:
    return f" of trial {member}" if member else ""
