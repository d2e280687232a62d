"""A kernel at its PVH entry in a QEMU of our own, to be asked, asserted on and run further: what a test holds in its hands.

::

    with boot("vmlinux", machine="q35", append="console=ttyS0") as guest:
        guest.assert_conforms()
        guest.until("start_kernel")

The QEMU ends with the context, and with the process, whatever happens. Sockets are unix sockets in a private folder, so
any number of boots go side by side.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.snapshot_file import encode
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, EntryNotReached, GuestDied, TargetLost, TargetTimeout
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine.capture import Plan, capture, decoded, where, with_command
from pvhdbg.model import Registers
from pvhdbg.report import verdict_text
from pvhdbg.report.document import Report
from pvhdbg.report.findings import Standing, sentences, standing
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.catalogue import CHAPTERS, find, judge
from pvhdbg.rules.declare import Verdict
from pvhdbg.rules.files import judge_file
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.recorded import RecordedTarget, open_snapshot
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave, Target
from pvhdbg.tracing.event import Mode
from pvhdbg.tracing.mode_words import FOREMOST, MODES
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, start, version_of

if TYPE_CHECKING:
    from os import PathLike

    from pvhdbg.machine.waiter import Vigil
    from pvhdbg.tracing.engines.events import Events
    from pvhdbg.tracing.engines.wait import Goal
    from pvhdbg.tracing.explain import Explanation
    from pvhdbg.tracing.milestones import Milestone

_SERIAL_BOUND = 4 << 20  # bytes of it that are looked at
_BAD = (Standing.FAILED, Standing.UNDECIDED)


class Handoff:
    """What was handed over, decoded and judged. `entry` is the BootState, `verdicts` those of all rules, file rules first."""

    def __init__(self, entry: BootState, file: KernelFile | None = None) -> None:
        self.entry = entry
        self.file = file
        self.verdicts = self._judged(entry)

    def _judged(self, entry: BootState) -> tuple[Verdict, ...]:
        about_file = () if self.file is None else judge_file(self.file, revision=entry.revision)
        return (*about_file, *judge(entry))

    def report(self, spec: str | None = None, strict: bool = False) -> Report:
        """The report, by the revision of that name, else by the one it was captured for."""
        if spec is None or spec == self.entry.revision.name:
            return Report(self.entry, self.verdicts, strict, serial=self._serial_lines())
        entry = decoded(self._memory(), self.entry.snapshot, spec)
        return Report(entry, self._judged(entry), strict, serial=self._serial_lines())

    def assert_conforms(self, allow: Collection[str] = (), *, spec: str | None = None, strict: bool = False) -> None:
        """Raise AssertionError with the violations as the text report shows them, unless there are none.

        `allow` holds the ids of rules whose violation is accepted. Raises BadInput for an id that is no rule's.
        """
        __tracebackhide__ = True
        report = self.report(spec, strict)
        wrong = _wrong(report, allow)
        # Another protocol is said by a rule that only remarks on it, so it has no violation to allow.
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

    def snapshot(self, path: str | PathLike[str]) -> None:
        """Save the entry to a file that `pvhdbg check`, `info`, `regs` and `diff` read. Raises OSError."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(encode(self.entry.snapshot))

    def _memory(self) -> Target:
        return RecordedTarget(self.entry.snapshot, "the entry")

    def _serial_lines(self) -> tuple[str, ...]:
        return ()


class Subtests(Protocol):
    """What is used of pytest's fixture `subtests`."""

    def test(self, msg: str) -> AbstractContextManager[Any]: ...


def _wrong(report: Report, allow: Collection[str]) -> list[Verdict]:
    allowed = {find(id).id for id in allow}
    return [one for one in report.verdicts if standing(one, report.strict) in _BAD and one.rule.id not in allowed]


def load(path: str | PathLike[str], spec: str = "v1") -> Handoff:
    """The hand-off in a snapshot file. Raises BadSnapshot."""
    target = open_snapshot(str(path))
    return Handoff(decoded(target, target.snapshot, spec))


class Boot(Handoff):
    """A hand-off whose machine still stands there. Made by `boot`; gone with it."""

    def __init__(self, entry: BootState, image: KernelImage, qemu: QemuProcess, target: Target) -> None:
        super().__init__(entry, image.file())
        self.qemu = qemu
        self.target = target
        self.serial = Serial(self)
        self._image = image
        self._death: Explanation | None = None

    @cached_property
    def _vigil(self) -> Vigil:
        from pvhdbg.machine.waiter import Vigil  # only for who waits: it is as much again as all the rest

        return Vigil(self.target, self.entry, self._image, self.qemu)

    @property
    def registers(self) -> Registers:
        """The registers as they are now."""
        return self.target.read_registers()

    def read_memory(self, address: int, size: int) -> bytes:
        """Guest-physical memory as it is now. Raises MemoryUnreadable."""
        return self.target.read_memory(address, size)

    def symbol(self, name: str) -> int:
        """The physical address of a symbol of the kernel. Raises BadInput with the nearest names."""
        return self._image.symbols().physical_address(name)

    @property
    def milestones(self) -> tuple[Milestone, ...]:
        """The steps of the boot in order (`lgdt`, `cr0.pg`, `64-bit` …), as far as `until` and `expect` followed it.

        They follow the first 20 000 instructions, or half a second, one by one; what came later is not in it. None with KVM.
        """
        return self._vigil.milestones

    @property
    def death(self) -> Explanation | None:
        """Why the guest died, once a wait has ended with its death."""
        return self._death

    def until(self, place: str | int, timeout: float = 30.0) -> Registers:
        """Run to a symbol or a linear address, and return the registers there.

        A symbol is stopped at in both views, by its physical and by its link-time address: which one counts depends on
        paging. Raises GuestDied with the cause as soon as the guest is dead (a triple fault, a reset, a power-off, a panic, an
        endless loop or a halt with interrupts off, the end of QEMU), EntryNotReached when `timeout` seconds pass.
        """
        from pvhdbg.tracing.engines.wait import Goal

        if isinstance(place, int):
            self._wait(Goal((place,)), f"{place:#x}", timeout)
        else:
            symbols = self._image.symbols()
            addresses = {symbols.physical_address(place), symbols.virtual_address(place)}
            self._wait(Goal(tuple(sorted(addresses))), place, timeout)
        return self.registers

    def until_mode(self, mode: str, timeout: float = 30.0) -> Registers:
        """Run until the CPU is in a mode: protected, paged, pae, compatibility, long; or protected-mode, paging, long-mode.

        Returns the registers a little after.

        Raises as `until` does, and BadInput for what is no mode. GuestDied it is, too, when the guest ended QEMU so soon after
        that there was nothing left to stop.
        """
        from pvhdbg.tracing.engines.wait import Goal

        if mode not in MODES:
            raise BadInput(f"{mode!r} is no mode of the CPU", f"choose one of {', '.join(MODES)}")
        goal, name = Goal(modes=MODES[mode]), mode if mode in FOREMOST else f"{mode} mode"
        self._wait(goal, name, timeout)
        try:
            return self.registers
        except TargetLost:
            self._wait(goal, name, timeout, "could be stopped in")  # which tells how it ended
            raise

    def _wait(self, goal: Goal, name: str, timeout: float, how: str = "reached") -> None:
        end = self._vigil.until(goal, timeout)
        if end is None:
            return
        if end.died:
            self._death = end.why
            raise GuestDied(f"the guest died before it {how} {name}: {end.words}", _with_serial(end.why.next, self.qemu))
        what = f"the guest did not reach {name} within {timeout:g} s: {end.words}"
        raise EntryNotReached(what, _with_serial("allow more time, or see where it is", self.qemu))

    def trace(
        self, until: str | int | None = None, *, count: int | None = None, states: bool = False, timeout: float = 30.0
    ) -> Events:
        """The instructions from here on, one by one, and the faults between them: iterate it, best in a `with`.

        `until` is a symbol, a linear address, or a mode (its first instruction is the last event); `count` a number of
        instructions. `states` asks for what each instruction changed (`event.changes`), not only for places. By QEMU's log, with
        KVM by single steps. Raises BadInput at once; TargetError while it is read.
        """
        from pvhdbg.tracing.engines.engine import Bounds, Engine
        from pvhdbg.tracing.engines.events import Events

        modes = {one.value: one for one in Mode}
        mode = modes.get(until) if isinstance(until, str) else None
        addresses: tuple[int, ...] = ()
        if isinstance(until, int):
            addresses = (until,)
        elif until is not None and mode is None:
            symbols = self._image.symbols()
            addresses = (symbols.physical_address(until), symbols.virtual_address(until))
        self._vigil.wait.remember()
        engine: Engine
        if self.entry.snapshot.vmm.accelerator == "kvm":
            from pvhdbg.tracing.engines.step import StepEngine

            engine = StepEngine(self.target)
        else:
            from pvhdbg.tracing.engines.log import LogEngine

            engine = LogEngine(self.target, states=states or mode is not None, peek=self._vigil.names.code)
        return Events(engine, Bounds(addresses, count, timeout), mode)

    def where(self) -> str:
        """Where the CPU is, in words: "pc 0x100058, protected mode, paging off, halt+0x0". Raises TargetError."""
        registers = self.registers
        symbols = self._image.symbols()
        near = symbols.nearest(registers["rip"]) or symbols.nearest_virtual(registers["rip"])
        return where(registers) + (f", {safe(near[0])}+{near[1]:#x}" if near else "")

    def _serial_lines(self) -> tuple[str, ...]:
        return tuple(self.qemu.serial_tail(1000))


class Serial:
    """What the guest wrote to COM1."""

    def __init__(self, guest: Boot) -> None:
        self._guest = guest

    @property
    def text(self) -> str:
        """All of it up to now; bytes that are no UTF-8 are escaped."""
        with open(self._guest.qemu.serial_log, "rb") as file:
            return file.read(_SERIAL_BOUND).decode("utf-8", "backslashreplace")

    def expect(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Run on until `pattern` is found in all that was written, and stop the machine there.

        Raises GuestDied with the cause as soon as the guest is dead, as `until` does, TargetTimeout after `timeout` seconds.
        """
        wanted = re.compile(pattern)
        if found := wanted.search(self.text):
            return found
        from pvhdbg.tracing.engines.wait import Goal

        end = self._guest._vigil.until(Goal(done=lambda: wanted.search(self.text) is not None), timeout)
        if found := wanted.search(self.text):  # a guest may say it, and die of it
            return found
        assert end is not None
        if end.died:
            self._guest._death = end.why
            what = f"the guest died before it wrote {pattern!r}: {end.words}"
            raise GuestDied(what, _with_serial(end.why.next, self._guest.qemu))
        raise TargetTimeout(
            f"the guest did not write {pattern!r} within {timeout:g} s: {end.words}",
            _with_serial("allow more time, or see what it does", self._guest.qemu),
        )


def _with_serial(todo: str, qemu: QemuProcess) -> str:
    last = " / ".join(qemu.serial_tail(3))
    return "; ".join(part for part in (todo, f"last on the serial port: {last}" if last else "") if part)


@contextmanager
def boot(
    kernel: str | PathLike[str],
    *,
    machine: str | None = None,
    memory: str | None = None,
    append: str | None = None,
    initrd: str | PathLike[str] | None = None,
    cpus: int | None = None,
    cpu: str | None = None,
    accel: str = "tcg",
    qemu: str | None = None,
    extra: Collection[str] = (),
    spec: str = "v1",
    timeout: float = 30.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Boot]:
    """Start QEMU with a kernel (ELF, bzImage or compressed), run to its PVH entry, and hold it there.

    `spec` is the revision to judge by, `timeout` in seconds; `extra` are further words for QEMU. Raises PvhdbgError.
    """
    with ExitStack() as stack:
        image = stack.enter_context(open_kernel(str(kernel)))
        noted = image.kernel()
        if noted.entry is None:
            raise image.not_bootable()
        options = QemuOptions(
            kernel=image.elf_path,
            append=append,
            initrd=None if initrd is None else str(initrd),
            machine=machine,
            memory=memory,
            cpus=cpus,
            cpu=cpu,
            accel=accel,
            qemu=qemu,
            extra=tuple(extra),
        )
        process = stack.enter_context(start(options, progress=progress))
        target = RemoteTarget.connect(StubAddress(path=process.gdb_socket), timeout=timeout, progress=progress)
        stack.callback(target.close, Leave.KILLED)
        captured = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        symbol = image.symbols().label(noted.entry)
        plan = Plan(spec, symbol=symbol, kernel=noted, image=image, booted=True, timeout=timeout, whole=True)
        try:
            entry = capture(target, plan, progress=progress, timestamp=captured)
        except (EntryNotReached, GuestDied) as error:
            raise type(error)(error.what, _with_serial(error.todo, process)) from error
        yield Boot(with_command(entry, process.command), image, process, target)


def qemu_version(qemu: str | None = None) -> str:
    """The version of a QEMU (pvhdbg's own choice without a name), as it says itself. Raises VmmFailed."""
    return version_of(qemu)


def told(report: Report) -> str:
    """The report's verdicts as text, with its conclusion last."""
    lines = verdict_text.checks(report.verdicts, CHAPTERS, f"Checks by {report.boot.revision.title}", PLAIN)
    return "\n".join([*lines, "", report.conclusion])
