"""A cell is booted and judged, in this process, by what `pvhdbg check` and `pvhdbg stress` use."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pvhdbg.commands import handoff
from pvhdbg.commands.declare import Context
from pvhdbg.commands.options import WaitOptions
from pvhdbg.commands.stress import trial_verdict
from pvhdbg.decode.text import printable
from pvhdbg.errors import PvhdbgError
from pvhdbg.model import Unavailable
from pvhdbg.record import replace
from pvhdbg.report import json_report, text
from pvhdbg.report.document import Report
from pvhdbg.report.findings import CONFORMS, UNDECIDED, VIOLATED
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.declare import FileRule, Verdict
from pvhdbg.stress.campaign import confirmed, words
from pvhdbg.stress.catalogue import find
from pvhdbg.stress.trial import Fate, StressWish, boot_with
from pvhdbg.sweep.cell import AskedQemu, CellTask
from pvhdbg.sweep.plan import memory_size
from pvhdbg.sweep.result import CellOutcome, CellResult, CellVerdict, Packed, packed_verdicts
from pvhdbg.vmm.options import DEFAULT_MEMORY

_OUTCOMES = {CONFORMS: CellOutcome.CONFORMS, VIOLATED: CellOutcome.VIOLATED, UNDECIDED: CellOutcome.UNDECIDED}
_FATES = {
    Fate.SURVIVES: CellOutcome.CONFORMS,
    Fate.DIES: CellOutcome.VIOLATED,
    Fate.HANGS: CellOutcome.VIOLATED,
    Fate.NOT_TRIED: CellOutcome.NOT_TRIED,
}
_NO_MEMORY = 2  # the exit code, as for any input that cannot be used
PVH = "PVH"


def booted(task: CellTask) -> CellResult:
    """What came of the cell. Never raises but for signals: what went wrong is the result."""
    began = time.monotonic()
    try:
        with _bounded(task):
            found = _stressed(task) if task.cell.mutations else _checked(task)
    except (PvhdbgError, Unavailable) as error:
        found = failed(error)
    except MemoryError:
        found = CellResult(CellOutcome.NOT_OBSERVED, "not enough memory", _NO_MEMORY, next="allow more with cell_memory")
    except Exception as error:  # a defect of ours: told as one, and the sweep goes on
        what = printable(f"internal error: {type(error).__name__}: {error}")
        found = CellResult(CellOutcome.NOT_OBSERVED, what, 70, next="boot this cell alone with pvhdbg check, and report it")
    return replace(found, seconds=round(time.monotonic() - began, 4), place=platform.node())


def failed(error: PvhdbgError | Unavailable) -> CellResult:
    """The result of a cell that could not be observed."""
    if isinstance(error, Unavailable):
        return CellResult(CellOutcome.NOT_OBSERVED, printable(error.reason), 3)
    return CellResult(CellOutcome.NOT_OBSERVED, printable(error.what), error.exit_code, next=printable(error.todo))


def _checked(task: CellTask) -> CellResult:
    cell = task.cell
    wait = WaitOptions(cell.goal or None, task.bounds.goal_seconds if cell.goal else None)
    options = handoff.CheckOptions(task.about(), task.judge, wait, task.files[cell.expect] if cell.expect else None)
    report = handoff.judged(options, Context())
    vmm = report.boot.snapshot.vmm
    if vmm.version and not AskedQemu.of(cell.qemu).fits(vmm.version):
        return CellResult(CellOutcome.NOT_OBSERVED, f"{printable(cell.qemu)} was asked for, and it is {printable(vmm.version)}", 3)
    other = report.boot.other_protocol
    return CellResult(
        _OUTCOMES[report.exit_code],
        printable(report.conclusion),
        report.exit_code,
        vmm=printable(vmm.name or ""),
        version=printable(vmm.version or ""),
        firmware=report.boot.firmware.name if report.boot.firmware else "",
        protocol=PVH if other is None else other.title,
        verdicts=_packed(report.verdicts),
        milestones=tuple(replace(one, seconds=round(one.seconds, 4)) for one in report.milestones),
        reports=_reports(report, cell.kernel) if task.reports else {},
    )


def _packed(verdicts: Iterable[Verdict]) -> Packed:
    return packed_verdicts(CellVerdict.of(one, isinstance(one.rule, FileRule)) for one in verdicts)


def _reports(report: Report, name: str) -> dict[str, Packed]:
    """The report without the time, and with the kernel's name in the plan as its path: two boots that are the same are then one text."""
    seen = report.boot.snapshot
    kernel = None if seen.kernel is None else replace(seen.kernel, path=name)
    snapshot = replace(seen, captured=None, kernel=kernel)
    still = replace(report, boot=replace(report.boot, snapshot=snapshot))
    return {"json": Packed.of(json_report.render(still)), "text": Packed.of(text.render(still, PLAIN))}


def _stressed(task: CellTask) -> CellResult:
    cell = task.cell
    mutations = [find(one) for one in cell.mutation_ids]
    wish = StressWish(task.about(), cell.goal or None, task.bounds.goal_seconds, frozenset(cell.mutation_ids))
    trial = confirmed(lambda: boot_with(mutations, wish))
    return CellResult(
        _FATES[trial.fate],
        words(trial),
        VIOLATED if trial.killed else CONFORMS,
        next=trial.next,
        verdicts=_packed([trial_verdict(trial, {})]),
    )


@contextmanager
def _bounded(task: CellTask) -> Iterator[None]:
    """Bounds the address space of this process and of its children, which inherit the limit."""
    guest = memory_size(task.cell.memory or DEFAULT_MEMORY)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = None if guest is None else guest + task.bounds.memory
    if wanted is None or (hard != resource.RLIM_INFINITY and wanted > hard):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
