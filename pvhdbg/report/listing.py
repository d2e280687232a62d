"""The common input of all formats that list findings, for a boot and for a kernel file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pvhdbg.decode.text import SafeText, printable, safe
from pvhdbg.errors import PvhdbgError
from pvhdbg.report import machine, text
from pvhdbg.report.document import Report
from pvhdbg.report.findings import CONFORMS, Finding, Standing, standing
from pvhdbg.report.kernel_document import FileReport
from pvhdbg.report.style import PLAIN
from pvhdbg.version import VERSION

_LINE = 4096  # characters of a guest's string in the output


@dataclass(frozen=True)
class Listing:
    """Findings, and the facts that apply to all of them.

    `facts` are properties by name, `rows` are lines for people; both are safe text. `output` is what was observed,
    `timestamp` when (ISO 8601).
    """

    name: str
    findings: Sequence[Finding]
    conclusion: str
    exit_code: int
    strict: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    warnings: Sequence[SafeText] = ()
    output: str = ""
    timestamp: str | None = None
    file: str | None = None  # that was judged or booted, as its repository names it

    @property
    def unexplained(self) -> str | None:
        """Why the whole fails if no finding shows it: another boot protocol, or nothing could be judged. Else None."""
        bad = (Standing.FAILED, Standing.UNDECIDED)
        if self.exit_code == CONFORMS or any(standing(one, self.strict) in bad for one in self.findings):
            return None
        return self.conclusion


def of_boot(report: Report) -> Listing:
    """The listing of one boot. Its name, "PVH vmlinux on QEMU 7.2.22", distinguishes the boots of a matrix."""
    snapshot, kernel, entry = report.boot.snapshot, report.boot.snapshot.kernel, report.boot.snapshot.entry
    vmm = snapshot.vmm
    on = " ".join(part for part in (vmm.name, vmm.version) if part)
    facts = {
        "vmm.name": vmm.name,
        "vmm.version": vmm.version,
        "vmm.accelerator": vmm.accelerator,
        "vmm.firmware": report.boot.firmware.name if report.boot.firmware else None,
        "kernel.path": kernel.path if kernel else None,
        "kernel.build_id": kernel.build_id if kernel else None,
        "entry.address": None if entry.address is None else f"{entry.address:#x}",
        "entry.found_by": entry.found_by,
        "spec": report.boot.revision.name,
    }
    seen = [*text.registers(report.boot), "", *text.segments(report.boot), "", *text.info(report.boot, PLAIN, _LINE)]
    return Listing(
        name=_name("PVH", kernel.path if kernel else None, f"on {on}" if on else ""),
        findings=report.verdicts,
        conclusion=report.conclusion,
        exit_code=report.exit_code,
        strict=report.strict,
        facts=_facts(facts, report),
        rows=[f"{title}: {value}" for title, value in machine.rows(report.boot)],
        warnings=report.warnings,
        output="\n".join([*seen, *(["", *report.serial] if report.serial else [])]),
        timestamp=snapshot.captured,
    )


def of_file(report: FileReport) -> Listing:
    """The listing of one kernel file."""
    entry = report.entry
    facts = {
        "kernel.path": report.path,
        "kernel.build_id": report.build_id,
        "kernel.made_by": report.maker.value if report.maker is not None else None,
        "entry.address": None if entry is None else f"{entry.address:#x}",
    }
    rows = [f"file: {printable(report.path)}", f"entry: {'none' if entry is None else hex(entry.address)}"]
    return Listing(
        name=_name("PVH kernel file", report.path, ""),
        findings=report.verdicts,
        conclusion=report.conclusion,
        exit_code=report.exit_code,
        strict=report.strict,
        facts=_facts(facts, report),
        rows=rows,
    )


def of_error(subject: str, error: PvhdbgError) -> Listing:
    """The listing of a subject that could not be judged: no findings, and the error as its conclusion."""
    todo = [f"next: {safe(error.todo)}"] if error.todo else []
    return Listing(_name("PVH", subject, ""), (), safe(error.what), error.exit_code, rows=todo, output="\n".join(todo))


def _name(kind: str, path: str | None, place: str) -> str:
    return printable(" ".join(part for part in (kind, (path or "").rsplit("/", 1)[-1], place) if part))


def _facts(facts: Mapping[str, str | None], report: Report | FileReport) -> dict[str, str]:
    whole = {
        "pvhdbg.version": VERSION,
        **facts,
        "strict": str(report.strict).lower(),
        "conclusion": report.conclusion,
        "exit_code": str(report.exit_code),
    }
    return {name: printable(value) for name, value in whole.items() if value is not None}
