"""Findings for GitHub Actions: workflow commands, which become annotations.

The commands and their escaping are those of actions/runner (src/Runner.Common/ActionCommand.cs): `%`, CR and LF in the
message, and also `:` and `,` in a property. Only commands are printed, so that no line of a guest can become one.
"""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.decode.text import safe
from pvhdbg.report.findings import Finding, Standing, by_reason, sentences, standing
from pvhdbg.report.listing import Listing
from pvhdbg.rules.declare import Outcome

_COMMANDS = {
    Standing.FAILED: "error",
    Standing.UNDECIDED: "error",
    Standing.ADVICE: "warning",
    Standing.EXCUSED: "notice",
}


def render(listing: Listing) -> str:
    """A command for each finding with sentences, one for each reason why rules are undecided, and one for the conclusion.

    With the file, a finding is shown on it. Errors come first: GitHub shows only ten of a kind in a step. Remarks are notices,
    violated recommendations warnings.
    """
    found = [(standing(one, listing.strict), one) for one in listing.findings]
    lines = []
    for kind, command in _COMMANDS.items():
        for one, finding in found:
            if one is kind:
                lines.append(_command(_softened(command, finding), _title(finding), _told(finding), listing.file))
    undecided = by_reason(finding for one, finding in found if one is Standing.OPEN)
    lines += [_command("notice", f"undecided: {', '.join(ids)}", [why]) for why, ids in undecided.items()]
    lines += [_command("notice", "pvhdbg", [warning]) for warning in listing.warnings]
    lines.append(_command("error" if listing.exit_code else "notice", "PVH boot ABI", [listing.conclusion]))
    return "\n".join(lines) + "\n"


def _softened(command: str, finding: Finding) -> str:
    return "notice" if command == "warning" and finding.outcome is Outcome.REMARK else command


def _title(finding: Finding) -> str:
    return f"{finding.rule.id} {finding.rule.title}"


def _told(finding: Finding) -> list[str]:
    return [*sentences(finding), str(finding.rule.clause)]


def _command(name: str, title: str, lines: Sequence[str], file: str | None = None) -> str:
    where = "" if file is None else f"file={_property(safe(file))},"
    return f"::{name} {where}title={_property(safe(title))}::{_data(chr(10).join(safe(line) for line in lines))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
