"""docs/vmms.md: which VMM departs from the ABI, how, and whether a guest notices. From the records of `spec`."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.report.rules_page import code, escaped, link
from pvhdbg.rules.catalogue import find
from pvhdbg.spec.deviations import DEVIATIONS, Deviation
from pvhdbg.spec.vmm_bugs import VMM_BUGS
from pvhdbg.spec.vmm_traits import TRAITS

_RULES_PAGE = "rules.md"

HEAD = """# Which VMM departs from the ABI

For authors of guests: what each VMM hands over that the ABI has otherwise, or that a guest may stumble over, and whether it matters.
`make conformance` generates this page from the records that `pvhdbg check` judges by. What was not measured is not on it; each source
says where it was measured. [conformance.md](conformance.md) shows what each VMM was seen to do, [probe.md](probe.md) how to judge a VMM.
"""


def render() -> str:
    """The page."""
    lines = [HEAD]
    for vmm in dict.fromkeys(one.vmm for one in sorted(DEVIATIONS, key=lambda one: one.vmm.lower())):
        mine = [one for one in DEVIATIONS if one.vmm == vmm]
        lines += [
            f"## {escaped(vmm)}: departures from a rule",
            "",
            "| versions | rule | found | does it matter |",
            "|---|---|---|---|",
        ]
        lines += [_row(one) for one in mine]
        lines.append("")
        lines += [line for one in mine for line in (f"- {link(one.key, _RULES_PAGE)}: {escaped(one.why)}.",)]
        lines.append("")
    lines += [*_traits(), *_bugs()]
    return "\n".join(lines)


def _row(one: Deviation) -> str:
    found = escaped(one.values()) if one.found is None else " or ".join(code(value) for value in sorted(one.found))
    firmware = f" with {' or '.join(sorted(one.firmware))}" if one.firmware else ""
    rule = f"{link(one.rule, _RULES_PAGE)} {find(one.rule).severity.value}"
    return f"| {escaped(one.versions() + firmware)} | {rule} | {found} | {escaped(one.matters)} |"


def _traits() -> Iterator[str]:
    yield "## Within the ABI, and worth knowing"
    yield ""
    yield "| VMM | what | does it matter | source |"
    yield "|---|---|---|---|"
    for one in TRAITS:
        yield f"| {escaped(one.versions)} | {escaped(one.what)} | {escaped(one.matters)} | {escaped(one.source)} |"
    yield ""


def _bugs() -> Iterator[str]:
    yield "## Bugs of VMMs that look like bugs of the guest"
    yield ""
    yield "`pvhdbg why`, `wait` and `check --until` name them, and avoid them where they start the VMM."
    yield ""
    yield "| VMM | what | how it shows | what avoids it | source |"
    yield "|---|---|---|---|---|"
    for one in VMM_BUGS:
        versions = f"{one.vmm} before {'.'.join(map(str, one.fixed))}, {one.accelerator}"
        cells = (versions, one.what, one.sign, f"-cpu {one.remedy}", one.source)
        yield f"| {' | '.join(escaped(cell) for cell in cells)} |"
    yield ""
