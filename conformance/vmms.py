"""The VMMs that are not QEMU's own emulation: the probe is booted under each that is here, and its report judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.boots import Boot, Case, Setup
from conformance.cells import row, worst
from conformance.progress import Progress
from conformance.table import RULES_PAGE
from pvhdbg.commands import judging
from pvhdbg.decode.text import printable
from pvhdbg.errors import PvhdbgError
from pvhdbg.guests import path
from pvhdbg.machine.probe_run import observed
from pvhdbg.report.rules_page import escaped, link
from pvhdbg.rules.catalogue import MACHINE_RULES
from pvhdbg.rules.declare import FileRule, Outcome
from pvhdbg.vmm.probing.catalogue import RUNNERS
from pvhdbg.vmm.probing.qemu import QEMU
from pvhdbg.vmm.probing.seam import ProbedVmm, Wish
from pvhdbg.vmm.probing.xen import XEN, images

BEGIN, END = "<!-- other VMMs -->", "<!-- end of other VMMs -->"
_HEAD = """## Other VMMs, by the probe

VMMs without a usable debug stub are judged by what the sample guest `probe` prints ([probe.md](probe.md)): `pvhdbg probe --run VMM`. Each
was booted with 256 MiB, without a module and with one of 8193 bytes. What a guest cannot see of its machine is unknown. A rule that
every VMM passes, or that applies to none, has no line.
"""


@dataclass(frozen=True)
class Probed:
    """One VMM and its boots."""

    name: str
    boots: tuple[Boot, ...]


def probed(xens: Sequence[Path], initrd: Path, progress: Progress) -> list[Probed]:
    """The boots of every VMM that is here; Xen in each of these versions, or in those of this machine. What fails is reported."""
    found = []
    for vmm in RUNNERS:
        binaries: Iterable[str | None] = map(str, xens or images()) if vmm is XEN else (None,)
        for binary in () if vmm is QEMU else binaries:
            try:
                boots = tuple(_boots(vmm, binary, initrd))
            except PvhdbgError as error:
                progress.line(f"{vmm.title}: {error.what}")
                continue
            if boots:
                seen = boots[0].vmm
                accelerator = " with KVM" if seen.name == "QEMU" else ""
                found.append(Probed(f"{seen.name} {seen.version or 'of unknown version'}{accelerator}", boots))
                progress.line(f"{found[-1].name}: the probe was booted {len(boots)} times")
            else:
                progress.line(f"{vmm.title} is not here: {vmm.find(binary).missing}")
    return found


def _boots(vmm: ProbedVmm, binary: str | None, initrd: Path) -> Iterator[Boot]:
    there = vmm.find(binary)
    for initrds in ((), (str(initrd),)) if not there.missing else ():
        wish = Wish(str(path("probe")), binary, initrds=initrds)
        report = judging.report(observed(vmm, wish, there, "v1", vmm.seconds, None, lambda _: None), MACHINE_RULES)
        verdicts = tuple(verdict for verdict in report.verdicts if not isinstance(verdict.rule, FileRule))
        case = Case(Setup(vmm.name, vmm.name), "probe", "256M", len(initrds) * initrd.stat().st_size)
        yield Boot(case, report.boot.snapshot.vmm, verdicts=verdicts)


def section(found: Sequence[Probed]) -> str:
    """The part of the page; empty without a VMM."""
    if not found:
        return ""
    lines = [BEGIN, _HEAD, row(["rule", "", *(escaped(printable(one.name)) for one in found)]), row(["---"] * (len(found) + 2))]
    for rule in MACHINE_RULES:
        outcomes = {
            verdict.outcome for one in found for boot in one.boots for verdict in boot.verdicts if verdict.rule.id == rule.id
        }
        if outcomes - {Outcome.PASS, Outcome.NOT_APPLICABLE}:
            lines.append(
                row([link(rule.id, RULES_PAGE), rule.severity.value, *(worst(one.boots, rule, RULES_PAGE) for one in found)])
            )
    return "\n".join([*lines, "", END, ""])


def part_of(page: str) -> str:
    """That part of an earlier page; empty where it has none."""
    begin, end = page.find(BEGIN), page.find(END)
    return page[begin : end + len(END)] + "\n" if 0 <= begin < end else ""
