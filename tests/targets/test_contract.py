"""What a Target is: one test for every adapter, on real QEMUs of both widths."""

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.errors import EntryNotReached, GuestDied, MemoryUnreadable, TargetError, TargetTimeout
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.capture import capture
from pvhdbg.machine.entry_search import Plan
from pvhdbg.model import Unavailable
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.gdb_mi import GdbTarget
from pvhdbg.targets.recorded import RecordedTarget
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave, StopKind, Target, WatchKind, Watchpoint, unwinding, watching
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, start

pytestmark = pytest.mark.boot

HELLO = guests.path("hello")
CONNECT: dict[str, Callable[..., Target]] = {"remote": RemoteTarget.connect, "gdb_mi": GdbTarget}


@contextmanager
def machine(qemu: str = "qemu-system-x86_64", kernel: Path = HELLO, *extra: str) -> Iterator[QemuProcess]:
    with start(QemuOptions(kernel=kernel, memory="64M", qemu=qemu, extra=extra)) as process:
        yield process


@contextmanager
def connected(process: QemuProcess, adapter: str) -> Iterator[Target]:
    target = CONNECT[adapter](StubAddress(path=process.gdb_socket), timeout=10.0)
    try:
        yield target
    finally:
        target.close(Leave.STOPPED)


def entry() -> int:
    with open_kernel(str(HELLO)) as image:
        address = image.kernel().entry
    assert address is not None
    return address


def guest_elf(code: bytes) -> bytes:
    """A minimal PVH guest, ELF32: `code` at 1 MiB, where its note says that it is entered."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
    offset = 52 + 2 * 32
    header = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1" + bytes(9), 2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 2, 0, 0, 0)
    load = struct.pack("<8I", 1, offset, 0x100000, 0x100000, len(code), len(code), 7, 4)
    notes = struct.pack("<8I", 4, offset + len(code), 0, 0, len(note), len(note), 4, 4)
    return header + load + notes + code + note


@pytest.fixture
def guest(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(code: bytes) -> Path:
        path = tmp_path / "guest.elf"
        path.write_bytes(guest_elf(code))
        return path

    return write


adapters = pytest.mark.parametrize("adapter", CONNECT)
widths = pytest.mark.parametrize("qemu", ["qemu-system-x86_64", "qemu-system-i386"])


@adapters
@widths
def test_the_whole_contract(adapter: str, qemu: str, guest: Callable[[bytes], Path]) -> None:
    # qemu-system-i386 takes no ELF64; a guest for it is ELF32, which qemu-system-x86_64 takes as well.
    kernel, address = (guest(b"\x90\x90\xeb\xfe"), 0x100000) if qemu.endswith("i386") else (HELLO, entry())
    with machine(qemu, kernel) as process, connected(process, adapter) as target:
        assert target.capabilities.monitor
        assert target.capabilities.width == (32 if qemu.endswith("i386") else 64)
        assert target.read_registers()["rip"] == 0xFFF0

        assert run_until(target, {address}, 20) == address
        registers = target.read_registers()
        assert registers["eip"] == address
        assert registers["cr0"] & 0x80000001 == 1
        assert target.read_memory(registers["ebx"], 4) == b"\x78\xc5\x6e\x33"

        debugger = unwinding(target)
        assert (debugger is not None) == (adapter == "gdb_mi")
        assert debugger is None or debugger.frames(1) == (address,)

        # One register changes, and no other (hazard 1: writing all of them clears cr0.PE).
        target.write_register("rsi", 0x12345678)
        changed = target.read_registers()
        assert changed["esi"] == 0x12345678
        assert {name for name in registers if registers[name] != changed[name]} == {"rsi"}

        # More than one packet's worth of memory, written and read back.
        pattern = bytes(range(256)) * 40
        target.write_memory(0x200000, pattern)
        assert target.read_memory(0x200000, len(pattern)) == pattern
        with pytest.raises(MemoryUnreadable):
            target.read_memory(0x30000000, 16)

        before = target.read_registers()["rip"]
        target.set_breakpoint(before)  # a step gets off a breakpoint that it stands on
        assert target.step().kind is StopKind.BREAKPOINT
        assert target.read_registers()["rip"] != before
        target.clear_breakpoint(before)
        target.clear_breakpoint(before)  # once more does nothing

        assert "CR0=" in target.monitor("info registers")


@adapters
def test_a_wait_times_out_and_an_interrupt_stops_the_machine(adapter: str, guest: Callable[[bytes], Path]) -> None:
    with machine("qemu-system-x86_64", guest(b"\xeb\xfe")) as process, connected(process, adapter) as target:  # jmp .
        run_until(target, {0x100000}, 20)
        target.resume()
        with pytest.raises(TargetTimeout):
            target.wait(0.2)
        with pytest.raises(TargetError, match="running"):
            target.read_registers()
        assert target.interrupt().kind is StopKind.INTERRUPT
        assert target.read_registers()["eip"] == 0x100000


@adapters
def test_an_entry_that_never_comes_leaves_a_stopped_machine_without_breakpoints(
    adapter: str, guest: Callable[[bytes], Path]
) -> None:
    with machine("qemu-system-x86_64", guest(b"\xeb\xfe" + b"\x90" * 16)) as process, connected(process, adapter) as target:
        with pytest.raises(EntryNotReached, match="0x100008"):
            run_until(target, {0x100008}, 0.5)
        assert target.read_registers()["eip"] == 0x100000
        target.write_register("rip", 0x100008)  # onto where the breakpoint was
        target.step()
        assert target.read_registers()["eip"] == 0x100009


@adapters
def test_a_watchpoint_stops_behind_the_access(adapter: str, guest: Callable[[bytes], Path]) -> None:
    """Also by a step, after which neither a step nor a run stands still (QEMU stops them once before any instruction)."""
    store = b"\xff\x05" + struct.pack("<I", 0x200000)  # inc dword [0x200000]
    with machine("qemu-system-x86_64", guest(3 * store + b"\x90\xeb\xfe")) as process, connected(process, adapter) as plain:
        run_until(plain, {0x100000}, 20)
        target, one = watching(plain), Watchpoint(0x200000, 4)
        assert target is not None
        assert target.set_watchpoint(one)
        assert target.set_watchpoint(one)  # twice is one
        target.resume()
        stop = target.wait(10)
        assert (stop.kind, stop.watched, stop.watched_for) == (StopKind.BREAKPOINT, 0x200000, WatchKind.WRITE)
        assert target.read_registers()["rip"] == 0x100006
        assert target.step().watched == 0x200000
        assert target.step().watched == 0x200000
        assert target.read_registers()["rip"] == 0x100012
        target.step()
        assert target.read_registers()["rip"] == 0x100013
        target.clear_watchpoint(one)
        target.clear_watchpoint(one)  # once more does nothing
        target.write_register("rip", 0x100000)
        target.resume()
        with pytest.raises(TargetTimeout):
            target.wait(0.3)
        assert target.interrupt().kind is StopKind.INTERRUPT


@adapters
def test_a_breakpoint_is_at_a_linear_address_where_cs_has_a_base(adapter: str, guest: Callable[[bytes], Path]) -> None:
    # lgdt; ljmp to 0xff010 in a segment with base 0x1000, where there is: jmp .
    code = b"\x0f\x01\x15" + struct.pack("<I", 0x100020) + b"\xea" + struct.pack("<IH", 0xFF010, 8)
    code = code.ljust(0x10, b"\x90") + b"\xeb\xfe"
    table = bytes(8) + struct.pack("<IBBBB", 0x1000FFFF, 0, 0x9B, 0xCF, 0)
    code = code.ljust(0x20, b"\0") + struct.pack("<HIH", 15, 0x100028, 0) + table
    with machine("qemu-system-x86_64", guest(code)) as process, connected(process, adapter) as target:
        assert run_until(target, {0x100010}, 20) == 0x100010
        assert target.read_registers()["eip"] == 0xFF010


@adapters
def test_a_triple_fault_is_a_death_at_once(adapter: str, guest: Callable[[bytes], Path]) -> None:
    # lidt [limit 0]; int3: no handler can be found, three times over.
    code = b"\x0f\x01\x1d" + struct.pack("<I", 0x100010) + b"\xcc" + bytes(16)
    with (
        machine("qemu-system-x86_64", guest(code)) as process,
        connected(process, adapter) as target,
        pytest.raises(GuestDied),
    ):
        run_until(target, {0x100080}, 20)


@adapters
@pytest.mark.parametrize("leave", [Leave.STOPPED, Leave.RUNNING, Leave.KILLED])
def test_the_machine_is_left_as_asked(adapter: str, leave: Leave, guest: Callable[[bytes], Path]) -> None:
    # Counts at 0x108000 for ever: inc dword [0x108000]; jmp back.
    code = b"\xff\x05" + struct.pack("<I", 0x108000) + b"\xeb\xf8"
    with machine("qemu-system-x86_64", guest(code)) as process:
        target = CONNECT[adapter](StubAddress(path=process.gdb_socket), timeout=10.0)
        run_until(target, {0x100000}, 20)
        target.set_breakpoint(0x100006)  # must not survive
        assert target.close(leave)
        assert target.close(leave)  # twice is once
        if leave is Leave.KILLED:
            assert process.wait(5) is not None
            return
        counted, deadline = 0, time.monotonic() + 10
        while True:
            again = RemoteTarget.connect(StubAddress(path=process.gdb_socket))
            counted = int.from_bytes(again.read_memory(0x108000, 4), "little")
            if counted or leave is Leave.STOPPED or time.monotonic() > deadline:
                break
            again.close(Leave.RUNNING)
        try:
            assert (counted > 0) == (leave is Leave.RUNNING)
            if leave is Leave.STOPPED:
                assert again.read_registers()["eip"] == 0x100000
            again.resume()
            with pytest.raises(TargetTimeout):
                again.wait(0.2)  # no breakpoint stops it
        finally:
            again.close(Leave.KILLED)


@adapters
def test_physical_memory_is_read_whatever_paging_says_and_the_mode_is_put_back(
    adapter: str, guest: Callable[[bytes], Path]
) -> None:
    # Builds a 4 MiB page that maps 0x100000 to itself and nothing at 0x800000, turns paging on, and loops.
    code = (
        b"\xc7\x05" + struct.pack("<II", 0x110000, 0x83)  # mov dword [0x110000], 0x83: 4 MiB page, present, writable
        + b"\xb8" + struct.pack("<I", 0x110000) + b"\x0f\x22\xd8"  # mov cr3
        + b"\x0f\x20\xe0\x83\xc8\x10\x0f\x22\xe0"  # cr4 |= PSE
        + b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"  # cr0 |= PG
        + b"\xeb\xfe"
    )  # fmt: skip
    end = 0x100000 + len(code) - 2
    with machine("qemu-system-x86_64", guest(code)) as process, connected(process, adapter) as target:
        run_until(target, {0x100000}, 20)
        target.write_memory(0x800000, b"physical")
        run_until(target, {end}, 20)
        assert target.read_registers()["cr0"] >> 31
        assert target.read_memory(0x800000, 8) == b"physical"
        target.close(Leave.STOPPED)
        again = RemoteTarget.connect(StubAddress(path=process.gdb_socket))
        try:
            with pytest.raises(MemoryUnreadable):  # by paging again: QEMU's PhyMemMode is off
                again.read_linear(0x800000, 8)
        finally:
            again.close(Leave.STOPPED)


def test_the_first_stop_of_another_cpu_does_not_confuse_it() -> None:
    with machine("qemu-system-x86_64", HELLO, "-smp", "2") as process, connected(process, "remote") as target:
        assert run_until(target, {entry()}, 20) == entry()


def test_a_recorded_machine_reads_the_same_and_refuses_the_rest() -> None:
    with machine() as process, connected(process, "remote") as target:
        boot = capture(target, Plan(entry=entry()))
        recorded = RecordedTarget(boot.snapshot)
        assert recorded.read_registers() == target.read_registers()
        ebx = recorded.read_registers()["ebx"]
        assert recorded.read_memory(ebx, 56) == target.read_memory(ebx, 56)
    assert not recorded.capabilities.control
    with pytest.raises(MemoryUnreadable):
        recorded.read_memory(0x300000, 4)
    for act in (
        recorded.resume,
        recorded.step,
        recorded.interrupt,
        lambda: recorded.set_breakpoint(1),
        lambda: recorded.monitor("x"),
    ):
        with pytest.raises(TargetError, match="snapshot"):
            act()
    with pytest.raises(Unavailable):
        recorded.read_registers()["dr7"]


def test_an_elf32_guest_gives_gdb_no_reason_to_refuse(guest: Callable[[bytes], Path]) -> None:
    with machine("qemu-system-x86_64", guest(b"\xeb\xfe")) as process, connected(process, "gdb_mi") as target:
        assert run_until(target, {0x100000}, 20) == 0x100000
        assert target.read_registers()["cr0"] & 1
