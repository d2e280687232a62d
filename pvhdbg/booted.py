"""A machine at its PVH entry, to inspect, assert on and run further: the object that a test works with.

::

    with launch("vmlinux", machine="q35", append="console=ttyS0") as guest:
        guest.assert_conforms()
        guest.until("start_kernel")

Without `with` it stays until `guest.close()`. A QEMU that was started here ends with it, at the latest when the process ends.
Its sockets are unix sockets in a private folder, so any number of machines run in parallel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from pvhdbg.arguments import EntryArguments, LaunchArguments, Path, subject_of
from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.snapshot_file import encode
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput, EntryNotReached, GuestDied, TargetLost, TargetTimeout
from pvhdbg.machine.capture import decoded
from pvhdbg.machine.entry_search import where
from pvhdbg.machine.loaded_kernel import Confirm
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.recorder import watching
from pvhdbg.machine.session import Session, Settings
from pvhdbg.machine.subject import Opened, attach_stub, boot_kernel, open_subject
from pvhdbg.machine.subject_kind import subject_kind
from pvhdbg.model import Registers, Snapshot
from pvhdbg.report import verdict_text
from pvhdbg.report.document import Report
from pvhdbg.report.findings import Standing, sentences, standing
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.catalogue import CHAPTERS, find, judge
from pvhdbg.rules.declare import Verdict
from pvhdbg.rules.files import judge_file
from pvhdbg.spec.revisions import SpecName
from pvhdbg.targets.recorded import RecordedTarget, open_snapshot
from pvhdbg.targets.run import Progress
from pvhdbg.targets.target import Target
from pvhdbg.tracing.goal import Goal
from pvhdbg.tracing.mode_words import FOREMOST, MODES

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pvhdbg.machine.waiter import Waiter
    from pvhdbg.tracing.engines.events import Events
    from pvhdbg.tracing.explain import Explanation
    from pvhdbg.tracing.milestones import Milestone
    from pvhdbg.vmm.qemu import QemuProcess

_SERIAL_BOUND = 4 << 20  # bytes of it that are searched
_BAD = (Standing.FAILED, Standing.UNDECIDED)


class Handoff:
    """What was handed over, decoded and judged. `entry` is the BootState, `verdicts` those of all rules, file rules first."""

    def __init__(self, entry: BootState, file: KernelFile | None = None) -> None:
        self.entry = entry
        self.file = file
        self.verdicts = self._judged(entry)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.entry!r}, {self.report().conclusion!r})"

    def _judged(self, entry: BootState) -> tuple[Verdict, ...]:
        about_file = () if self.file is None else judge_file(self.file, revision=entry.revision)
        return (*about_file, *judge(entry))

    def report(self, spec: str | None = None, strict: bool = False) -> Report:
        """The report by the revision `spec`, by default the one it was captured for."""
        if spec is None or spec == self.entry.revision.name:
            return Report(self.entry, self.verdicts, strict, serial=self._serial_lines())
        entry = decoded(self._memory(), self.entry.snapshot, spec)
        return Report(entry, self._judged(entry), strict, serial=self._serial_lines())

    def assert_conforms(self, allow: Collection[str] = (), *, spec: str | None = None, strict: bool = False) -> None:
        """Raise AssertionError with the violations as the text report shows them, unless there are none.

        `allow` holds the ids of rules whose violation is accepted. Raises BadInput for an id that names no rule.
        """
        __tracebackhide__ = True
        report = self.report(spec, strict)
        wrong = _wrong(report, allow)
        # A boot by another protocol is reported by a rule that never fails, so there is no violation to allow.
        if wrong or report.boot.other_protocol is not None:
            lines = verdict_text.checks(wrong, CHAPTERS, f"violated by {report.boot.revision.title}:", PLAIN)
            raise AssertionError("\n".join([report.conclusion, "", *lines]))

    def assert_each(
        self, subtests: Subtests, allow: Collection[str] = (), *, spec: str | None = None, strict: bool = False
    ) -> None:
        """As `assert_conforms`, with each rule as a subtest: `subtests` is pytest's fixture of that name (pytest 9)."""
        __tracebackhide__ = True
        report = self.report(spec, strict)
        wrong = {one.rule.id for one in _wrong(report, allow)}
        for verdict in report.verdicts:
            with subtests.test(msg=verdict.rule.id):
                if verdict.rule.id in wrong:
                    raise AssertionError("\n".join([verdict.rule.title, *sentences(verdict), str(verdict.rule.clause)]))
        if report.boot.other_protocol is not None:
            raise AssertionError(report.conclusion)

    def snapshot(self, path: Path) -> None:
        """Save the entry to a file that `pvhdbg check`, `info`, `regs` and `diff` read. Raises OSError."""
        save(self, path)

    def _memory(self) -> Target:
        return RecordedTarget(self.entry.snapshot, "the entry")

    def _serial_lines(self) -> tuple[SafeText, ...]:
        return ()


class Subtests(Protocol):
    """The part of pytest's fixture `subtests` that is used here."""

    def test(self, msg: str) -> AbstractContextManager[Any]: ...


def _wrong(report: Report, allow: Collection[str]) -> list[Verdict]:
    allowed = {find(id).id for id in allow}
    return [one for one in report.verdicts if standing(one, report.strict) in _BAD and one.rule.id not in allowed]


def load(path: Path, spec: SpecName = "v1") -> Handoff:
    """The hand-off in a snapshot file. Raises BadSnapshot."""
    target = open_snapshot(os.fspath(path))
    return Handoff(decoded(target, target.snapshot, spec))


def save(what: Handoff | BootState | Snapshot, path: Path) -> None:
    """Write a snapshot file that `load` and `pvhdbg check`, `info`, `regs` and `diff` read. Raises OSError."""
    entry = what.entry if isinstance(what, Handoff) else what
    with open(path, "w", encoding="utf-8") as file:
        file.write(encode(entry.snapshot if isinstance(entry, BootState) else entry))


class Guest(Handoff):
    """A hand-off with its live machine. Made by `launch` or `connect`; ends with its context, or with `close`."""

    def __init__(self, opening: AbstractContextManager[Opened], notes: Sequence[SafeText] = ()) -> None:
        with ExitStack() as stack:
            opened = stack.enter_context(opening)
            super().__init__(opened.boot, opened.file)
            self._stack = stack.pop_all()
        self.target = opened.target
        self.warnings = (*opened.warnings, *notes)
        self.serial = Serial(self)
        self._image = opened.image
        self._found = (opened.file, opened.found)
        self._qemu = opened.qemu
        self._death: Explanation | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, value, trace)

    def close(self) -> None:
        """Leave the machine: a QEMU that was started here ends, a gdbstub's is left as `leave` says. Safe to call twice."""
        self._stack.close()

    @property
    def qemu(self) -> QemuProcess:
        """The QEMU that was started here. Raises BadInput for a machine that was not started here."""
        if self._qemu is None:
            raise BadInput("this machine was not started here", "launch the kernel instead")
        return self._qemu

    @cached_property
    def _waiter(self) -> Waiter:
        from pvhdbg.machine.waiter import opened_waiter  # imported for a wait only: it doubles the import time

        return opened_waiter(self._stack, self.target, self.entry, self._image, self._qemu)

    @cached_property
    def _session(self) -> Session:
        made = Session(
            self.target, self._image, Settings(self.entry.revision.name), warnings=list(self.warnings), confirm=Confirm()
        )
        made.confirm.file, made.confirm.path = self._found
        made.adopt(self.entry)
        return made

    def session(self) -> Session:
        """The machine as the commands see it: names, page tables, its hand-off. Everything is read anew after each call."""
        self._session.resumed()
        return self._session

    @property
    def registers(self) -> Registers:
        """The registers as they are now."""
        return self.target.read_registers()

    def read_memory(self, address: int, size: int) -> bytes:
        """Guest-physical memory as it is now. Raises MemoryUnreadable."""
        return self.target.read_memory(address, size)

    def symbol(self, name: str) -> int:
        """The physical address of a symbol of the kernel. Raises BadInput with the nearest names."""
        if self._image is None:
            raise BadInput(f"no kernel is known to look up {name} in", "name it: connect(address, kernel=...)")
        return self._image.symbols().physical_address(name)

    @property
    def milestones(self) -> tuple[Milestone, ...]:
        """The steps of the boot in order (`lgdt`, `cr0.pg`, `64-bit` …), as far as `until` and `expect` followed it.

        They trace the first 20 000 instructions, or half a second, one by one; later steps are not included. None with KVM.
        """
        return self._waiter.milestones

    @property
    def death(self) -> Explanation | None:
        """Why the guest died, once a wait has ended with its death."""
        return self._death

    def until(self, place: str | int, timeout: float = 30.0) -> Registers:
        """Run to a symbol or a linear address, and return the registers there.

        A symbol gets a breakpoint at its physical and at its link-time address: which one is hit depends on
        paging. Raises GuestDied with the cause as soon as the guest is dead (a triple fault, a reset, a power-off, a panic, an
        endless loop or a halt with interrupts off, the end of QEMU), EntryNotReached when `timeout` seconds pass.
        """
        if isinstance(place, int):
            self._wait(Goal((place,)), f"{place:#x}", timeout)
        else:
            self._wait(Goal(tuple(self._waiter.names.addresses(place))), place, timeout)
        return self.registers

    def until_mode(self, mode: str, timeout: float = 30.0) -> Registers:
        """Run until the CPU is in a mode: protected, paged, pae, compatibility, long; or protected-mode, paging, long-mode.

        Returns the registers a little after.

        Raises as `until` does, and BadInput for an unknown mode. GuestDied is also raised when the guest ended QEMU so soon
        after entering the mode that it could not be stopped.
        """
        if mode not in MODES:
            raise BadInput(f"{mode!r} is not a mode of the CPU", f"choose one of {', '.join(MODES)}")
        goal, name = Goal(modes=MODES[mode]), mode if mode in FOREMOST else f"{mode} mode"
        self._wait(goal, name, timeout)
        try:
            return self.registers
        except TargetLost:
            self._wait(goal, name, timeout, "could be stopped in")  # which tells how it ended
            raise

    def _wait(self, goal: Goal, name: str, timeout: float, how: str = "reached") -> None:
        end = self._waiter.until(goal, timeout)
        if end is None:
            return
        end.refuse_vmm_bug()
        if end.died:
            self._death = end.why
            raise GuestDied(f"the guest died before it {how} {name}: {end.words}", _with_serial(end.why.next, self._qemu))
        what = f"the guest did not reach {name} within {timeout:g} s: {end.words}"
        raise EntryNotReached(what, _with_serial("allow more time, or see where it hangs with: pvhdbg why", self._qemu))

    def trace(
        self, until: str | int | None = None, *, count: int | None = None, states: bool = False, timeout: float = 30.0
    ) -> Events:
        """The instructions from here on, one by one, and the faults between them: iterate over it, best in a `with`.

        `until` is a symbol, a linear address, or a mode (its first instruction is the last event); `count` a number of
        instructions. `states` asks for what each instruction changed (`event.changes`), not only for places. By QEMU's log, with
        KVM by single steps. Raises BadInput at once; TargetError during the iteration.
        """
        from pvhdbg.machine.guest_events import events

        self._waiter.wait.remember()
        return events(self.target, self.entry, self._waiter.names, until, count, states, timeout)

    def where(self) -> str:
        """Where the CPU is, in words: "pc 0x100058, protected mode, paging off, halt+0x0". Raises TargetError."""
        registers = self.registers
        symbols = None if self._image is None else self._image.symbols()
        near = symbols and (symbols.nearest(registers["rip"]) or symbols.nearest_virtual(registers["rip"]))
        return where(registers) + (f", {safe(near[0])}+{near[1]:#x}" if near else "")

    def _serial_lines(self) -> tuple[SafeText, ...]:
        return tuple(self._qemu.serial_tail(1000)) if self._qemu is not None else ()


class Serial:
    """What the guest wrote to COM1."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    @property
    def text(self) -> str:
        """All of it up to now; bytes that are not UTF-8 are escaped."""
        with open(self._guest.qemu.serial_log, "rb") as file:
            return file.read(_SERIAL_BOUND).decode("utf-8", "backslashreplace")

    def expect(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Run on until `pattern` is found in all that was written, and stop the machine there.

        Raises GuestDied with the cause as soon as the guest is dead, as `until` does, TargetTimeout after `timeout` seconds.
        """
        wanted = re.compile(pattern)
        if found := wanted.search(self.text):
            return found
        end = self._guest._waiter.until(Goal(done=lambda: wanted.search(self.text) is not None), timeout)
        if found := wanted.search(self.text):  # a guest may write it and then die
            return found
        assert end is not None
        end.refuse_vmm_bug()
        if end.died:
            self._guest._death = end.why
            what = f"the guest died before it wrote {pattern!r}: {end.words}"
            raise GuestDied(what, _with_serial(end.why.next, self._guest._qemu))
        raise TargetTimeout(
            f"the guest did not write {pattern!r} within {timeout:g} s: {end.words}",
            _with_serial("allow more time, or see what it does", self._guest._qemu),
        )


def _with_serial(todo: str, qemu: QemuProcess | None) -> str:
    last = " / ".join(qemu.serial_tail(3)) if qemu is not None else ""
    return "; ".join(part for part in (todo, f"last on the serial port: {last}" if last else "") if part)


def launch(
    kernel: Path,
    *,
    spec: SpecName = "v1",
    timeout: float = 30.0,
    mutate: Sequence[str] = (),
    progress: Progress = lambda _: None,
    **options: Unpack[LaunchArguments],
) -> Guest:
    """Start QEMU with a kernel (ELF, bzImage or compressed), run to its PVH entry, and hold it there.

    `spec` is the revision to judge by, `timeout` in seconds. `mutate` are mutations of `pvhdbg stress`, which are made at the entry.
    Raises PvhdbgError, BadInput for a mutation that this machine cannot have; TypeError for an unknown option.
    """
    about = subject_of("launch", kernel, LaunchArguments, options)
    about = about._replace(spec=spec, way=about.way._replace(timeout=timeout))
    if mutate:
        from pvhdbg.stress.trial import launched

        return Guest(launched(mutate, about, progress))
    notes: list[SafeText] = []
    return Guest(boot_kernel(about, progress, whole=True, onward=True, recorded=watching(about, notes, progress)), notes)


boot = launch  # its first name


def connect(
    address: str, *, spec: SpecName = "v1", progress: Progress = lambda _: None, **options: Unpack[EntryArguments]
) -> Guest:
    """Attach to a gdbstub (":1234", "host:1234", "unix:PATH", a socket's path), run to the PVH entry, and hold the machine there.

    Afterwards it is stopped, or as `leave` says. Raises PvhdbgError; TypeError for an unknown option.
    """
    about = subject_of("connect", address, EntryArguments, options)._replace(spec=spec)
    return Guest(attach_stub(about, progress, whole=True))


def at_entry(about: SubjectOptions) -> Guest:
    """A kernel file or a gdbstub at its entry. Raises PvhdbgError; BadInput for a recording, which does not run."""
    if not subject_kind(about.subject).runs:
        raise BadInput(f"{about.subject} is a recording, which does not run", "give a kernel file, or a gdbstub's address")
    notes: list[SafeText] = []
    recorded = watching(about, notes, lambda _: None)
    return Guest(open_subject(about, traced=True, onward=True, recorded=recorded), notes)


def qemu_version(qemu: str | None = None) -> str:
    """The version that a QEMU reports (without a name: the QEMU that pvhdbg chooses). Raises VmmFailed."""
    from pvhdbg.vmm.qemu import version_of

    return version_of(qemu)


def told(report: Report) -> str:
    """The report's verdicts as text, with its conclusion last."""
    lines = verdict_text.checks(report.verdicts, CHAPTERS, f"Checks by {report.boot.revision.title}", PLAIN)
    return "\n".join([*lines, "", report.conclusion])
