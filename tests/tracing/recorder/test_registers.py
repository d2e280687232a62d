"""The recorder's registers of each instruction, held against QEMU's log of the same instructions; halts; the code of the last blocks."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.kernel.image import open_kernel
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import breakpoints_at, run, run_until
from pvhdbg.targets.target import StopKind
from pvhdbg.tracing.engines.engine import Bounds, TraceEnd
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.registers import Recorder, RegisterEngine, open_recorder
from pvhdbg.tracing.event import EndReason, Event, Fault, FaultKind
from pvhdbg.tracing.recent import recent
from pvhdbg.tracing.recorder.file import Wanted
from pvhdbg.tracing.recorder.library import library
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, RecorderOptions
from tests.support.cli_runner import kernel_elf
from tests.support.debugged import debugged
from tests.support.small_kernels import assembled

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]


@contextmanager
def at_entry(kernel: Path, append: str = "", **options: object) -> Iterator[tuple[QemuProcess, RemoteTarget, Recorder]]:
    with open_kernel(str(kernel)) as image:
        entry = image.kernel().entry
    assert entry is not None
    recorder = RecorderOptions(library(), entry, code=True, **{"exact": True, **options})  # type: ignore[arg-type]
    with debugged(QemuOptions(kernel, append=append, recorder=recorder)) as (qemu, target), open_recorder(qemu.recording) as opened:
        run_until(target, [entry], 60)
        yield qemu, target, opened


def followed(engine: RegisterEngine | LogEngine, count: int) -> tuple[list[Event], list[Fault], TraceEnd]:
    events: list[Event] = []
    faults: list[Fault] = []
    for batch in engine.batches(Bounds(count=count, seconds=60)):
        events += batch
        faults += batch.faults
    return events, faults, engine.end


def alike(kernel: Path, append: str, count: int) -> tuple[list[Event], TraceEnd]:
    with at_entry(kernel, append) as (_, target, _):
        theirs, their_faults, _ = followed(LogEngine(target, states=True), count)
    with at_entry(kernel, append) as (_, target, recorder):
        ours, our_faults, end = followed(RegisterEngine(target, recorder), count)
    assert [(one.seq, one.pc, one.mode, one.code, dict(one.changes or {})) for one in ours] == [
        (one.seq, one.pc, one.mode, one.code, dict(one.changes or {})) for one in theirs
    ]
    assert [(one.seq, one.kind, one.vector, one.pc) for one in our_faults] == [
        (one.seq, one.kind, one.vector, one.pc) for one in their_faults
    ]
    assert [dict(one.delta.state()) for one in ours[::97] if one.delta] == [
        dict(one.delta.state()) for one in theirs[::97] if one.delta
    ]
    return ours, end


@pytest.mark.slow
def test_every_register_of_a_real_kernels_first_instructions_is_that_of_qemus_log(vmlinux: Path) -> None:
    """Two page faults and the way into 64-bit mode are among them."""
    events, end = alike(vmlinux, "console=ttyS0", 19_000)
    assert (len(events), end.why) == (19_000, EndReason.COUNT)


def test_no_instruction_is_missing_behind_a_repeated_one_in_code_that_ran_before(tmp_path: Path) -> None:
    """One-instruction mode is off while an instruction repeats, and on again behind it. QEMU splits blocks in a page with a breakpoint."""
    kernel = tmp_path / "laps.elf"
    code = assembled(tmp_path, "movl $stack, %esp\ncall lap\ncall lap\ncall lap\ncli\nhlt\n"
                               ".balign 4096\nlap: movl $64, %ecx\nmovl $room, %edi\nrep stosb\nincl %edx\nincl %edx\nret\n"
                               "room: .fill 64\n.fill 64\nstack:\n")  # fmt: skip
    kernel.write_bytes(kernel_elf(code))
    seen = []
    for by_recorder in (True, False):
        with at_entry(kernel) as (_, target, recorder):
            run_until(target, [0x10000F], 20)  # the third call
            engine = RegisterEngine(target, recorder, 0) if by_recorder else LogEngine(target, states=True)
            seen.append([(one.seq, one.pc, one.code) for one in followed(engine, 8)[0]])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 8


@pytest.mark.parametrize("crash", ["page-fault", "handled", "idt-selector"])
def test_faults_lie_between_the_same_instructions_to_the_death(crash: str) -> None:
    _, end = alike(guests.path("crashers"), f"crash={crash}", 20_000)
    assert end.final


def test_the_machine_stands_behind_the_last_instruction_and_goes_on() -> None:
    with at_entry(guests.path("long_mode")) as (_, target, recorder):
        first, _, end = followed(RegisterEngine(target, recorder), 500)
        assert (len(first), end.why, end.pc) == (500, EndReason.COUNT, target.read_registers()["rip"])
        assert recorder.recording.begun_at_a_stop == 500
        second, _, _ = followed(RegisterEngine(target, recorder), 500)
        assert [one.seq for one in second] == list(range(500, 1000))
        assert second[0].pc == end.pc


class _Late(Wanted):
    """A reader that asks for a stop before an instruction that ran long ago, as one does that lags behind on a busy host."""

    def until(self, number: int) -> None:
        super().until(min(number, 1))


def test_the_instruction_before_a_stop_that_was_asked_for_too_late_is_kept() -> None:
    with at_entry(guests.path("crashers"), "crash=endless-loop") as (qemu, target, opened), closing(_Late(qemu.recording)) as late:
        engine = RegisterEngine(target, Recorder(opened.recording, late))
        events: list[Event] = []
        for batch in engine.batches(Bounds(seconds=60)):
            events += batch
            if events:
                engine.stop()
        assert engine.end.why is EndReason.INTERRUPTED
        assert [one.seq for one in events] == list(range(opened.recording.begun_at_a_stop))


def test_a_halt_stops_the_machine_before_the_instruction() -> None:
    with open_kernel(str(guests.path("long_mode"))) as image:
        goal = image.symbols().physical_address("in_long_mode")
    with at_entry(guests.path("long_mode")) as (_, target, _), breakpoints_at(target, [goal]):
        assert run(target, 20).stop.kind is StopKind.BREAKPOINT
        theirs = target.read_registers()
    with at_entry(guests.path("long_mode"), halts=(goal,)) as (_, target, recorder):
        assert run(target, 20).stop.kind is StopKind.INTERRUPT
        assert target.read_registers() == theirs
        (mark,) = recorder.recording.marks
        assert (mark.halted, mark.pc) == (1, goal)
        assert recorder.recording.begun_at_a_stop == mark.first
        target.step()
        assert recorder.recording.begun_at_a_stop == mark.first + 1


def test_the_last_instructions_are_those_that_the_log_shows() -> None:
    """Also behind a fault that cut a block short."""
    with at_entry(guests.path("crashers"), "crash=page-fault") as (_, target, _):
        theirs, _, _ = followed(LogEngine(target, states=False), 20_000)
    with at_entry(guests.path("crashers"), "crash=page-fault") as (_, target, recorder):
        assert run(target, 20, may_vanish=True).stop.kind is StopKind.SHUTDOWN
        found = recent(recorder.recording, 0, 0, ())
        assert found is not None
        rows = list(zip(found.pcs, found.codes, found.modes, strict=True))
        assert rows[:-1] == [(one.pc, one.code, one.mode) for one in theirs][: len(rows) - 1]
        assert len(theirs) - len(rows) in (0, 1)


def test_a_fault_whose_handler_is_the_first_block_since_a_stop_lies_before_it() -> None:
    """An interrupt that waits while the machine stands is taken when it runs on."""
    with open_kernel(str(guests.path("crashers"))) as image:
        handler, waits = (image.symbols().virtual_address(name) for name in ("handler", "timer_wait"))
    with at_entry(guests.path("crashers"), "crash=timer", halts=(handler,)) as (_, target, recorder):
        assert run(target, 20).stop.kind is StopKind.INTERRUPT
        recording = recorder.recording
        head, number = recording.cpu(recording.header.entry_cpu).head, recording.begun_at_a_stop
        target.step()
        target.step()
        interrupt = Fault(-1, FaultKind.INTERRUPT, 8, None, waits, None, {})
        found = recent(recording, head, number, [interrupt], lambda _: handler)
        assert found is not None
        assert (found.pcs[0], [one.seq for one in found.faults]) == (handler, [number])
        unknown = recent(recording, head, number, [interrupt])
        assert unknown is not None
        assert unknown.faults == []


def test_numbers_are_about_right_where_the_fault_that_cut_a_block_short_is_missing() -> None:
    """QEMU's log may come too fast for each fault to be read. Blocks are counted as whole then."""
    with open_kernel(str(guests.path("crashers"))) as image:
        handler, faults_at = (image.symbols().virtual_address(name) for name in ("handler", "handled_fault"))
    with at_entry(guests.path("crashers"), "crash=handled", exact=False, halts=(handler,)) as (_, target, recorder):
        assert run(target, 20).stop.kind is StopKind.INTERRUPT
        target.step()
        fault = Fault(-1, FaultKind.EXCEPTION, 14, None, faults_at, None, {})
        found = recent(recorder.recording, 0, 0, [fault], lambda _: handler)
        assert found is not None
        assert (found.about, [one.seq for one in found.faults], found.pcs[-1]) == (False, [len(found.pcs) - 1], handler)
        missing = recent(recorder.recording, 0, 0, [], lambda _: handler)
        assert missing is not None
        assert (missing.about, missing.faults) == (True, [])
        assert len(missing.pcs) > len(found.pcs)
