"""`InsideGdb`: the machine of the surrounding GDB as a Target. Imported only in GDB's own Python.

Registers come from GDB, including changes that it has not written yet. Memory is read by packets of our own through GDB's
connection: GDB's cache has virtual addresses, and would keep data that was read in physical mode. The guest runs only inside `wait`:
GDB gives no prompt in between. Needs GDB 12 (gdb.RemoteTargetConnection).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gdb

from pvhdbg.decode.cpu_mode import paging_on
from pvhdbg.decode.followed_control import Control
from pvhdbg.errors import MemoryUnreadable, PvhdbgError, TargetError, TargetLost, TargetTimeout
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS, Registers
from pvhdbg.record import replace
from pvhdbg.rsp import replies
from pvhdbg.rsp.registers import RegisterLayout, layout_for
from pvhdbg.targets.gdb_quiet import muted, silence
from pvhdbg.targets.peer import command_behind
from pvhdbg.targets.remote import stop_of
from pvhdbg.targets.target import STEP_TIME, WAITS, Capabilities, Leave, Stop, StopKind

_REGISTERS = (*GENERAL, *EXTENDED, "rip", "eflags", *SELECTORS, *CONTROL, "fs_base", "gs_base", "k_gs_base")
_GONE = ("onnection closed", "not being run", "disconnected", "Broken pipe")
_NARROW = {full: half for half, full in LOW_HALVES.items()}
_OBEYS = 1.0  # seconds in which a guest that runs is stopped
_PIECE = 0x800  # bytes that every stub answers in one `m`
_SIGNALS = {"SIGINT": StopKind.INTERRUPT, "SIGTRAP": StopKind.BREAKPOINT, "SIGQUIT": StopKind.SHUTDOWN, "0": StopKind.INTERRUPT}


def connection() -> gdb.RemoteTargetConnection:
    """The connection of GDB's current inferior. Raises TargetError where there is none to a gdbstub."""
    found = gdb.selected_inferior().connection
    if not isinstance(found, gdb.RemoteTargetConnection) or not found.is_valid():
        raise TargetError("GDB is not connected to a gdbstub", "target remote :1234")
    return found


class InsideGdb:
    """A `Target` through the surrounding GDB, as long as its connection lasts."""

    via = "GDB"

    def __init__(self, stub: gdb.RemoteTargetConnection) -> None:
        self._stub = stub
        self._name = stub.details if isinstance(stub.details, str) else stub.description
        self._breakpoints: dict[int, gdb.Breakpoint] = {}
        self._waits = 0  # runs of our own, whose numbers are below zero
        self._going: int | None = None  # the number of the current run
        self._ended: int | None = None  # of the run that must end
        self._posted: int | None = None  # the run that GDB was told to end, and when
        self._posted_at = 0.0
        self._posting = threading.Lock()
        self._layout: RegisterLayout | None = None
        self._moved = False  # without GDB's knowledge
        self.disabled: list[gdb.Breakpoint] = []  # the user's; still so when the machine is gone, which GDB cannot enable them in
        self._last = Stop(StopKind.INTERRUPT, 2, "already stopped")
        self._has_monitor = self._ask_monitor()

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(monitor=self._has_monitor, packets=True, width=64, unwinds=True)

    def _ask_monitor(self) -> bool:
        try:
            return bool(self.monitor("info version"))
        except TargetError:
            return False

    def _stopped(self) -> gdb.Frame:
        """Frame 0 of a machine that stands still. While GDB evaluates a breakpoint's condition, it says that the thread runs."""
        if not self._stub.is_valid():
            raise TargetLost(f"GDB's connection to {self._name} is gone", "target remote it again")
        if self._moved:
            self._moved = False
            _execute("maintenance flush register-cache")
        try:
            return gdb.newest_frame()
        except gdb.error as error:
            if any(words in str(error) for words in _GONE):
                raise _gone(error) from error
            if "is running" in str(error):
                raise TargetError("the machine is running", "interrupt it first") from error
            raise TargetError(f"GDB shows no registers: {error}", "connect it to a gdbstub: target remote :1234") from error

    # --- registers ------------------------------------------------------------------------------------------------

    def read_registers(self) -> Registers:
        """All registers that GDB has of the stub, at frame 0 whichever frame is selected."""
        frame = self._stopped()
        values = {}
        for name in _REGISTERS:
            for known in (name, _NARROW.get(name)):
                value = None if known is None else _value(frame, known)
                if value is not None:
                    values[name] = value
                    break
        if "rip" not in values:
            raise TargetError("GDB shows no pc of an x86 CPU", "set architecture i386:x86-64")
        return Registers(values, "this stub does not show it")

    def frames(self, most: int) -> tuple[int, ...]:
        """See `Unwinding`: by whatever symbols, tables and unwinders GDB has. Calls that the compiler inlined have no frame of their own."""
        found: list[int] = []
        frame: gdb.Frame | None = self._stopped()
        try:
            while frame is not None and len(found) < most:
                if frame.type() != gdb.INLINE_FRAME:
                    found.append(frame.pc() & (1 << 64) - 1)
                frame = frame.older()
        except gdb.error:
            pass  # memory that cannot be read ends them
        return tuple(found)

    def write_register(self, name: str, value: int) -> None:
        self._stopped()
        _execute(f"set var ${name} = {value:#x}")

    # --- memory ---------------------------------------------------------------------------------------------------

    def read_memory(self, address: int, size: int) -> bytes:
        """Guest-physical memory. Raises MemoryUnreadable with the reason."""
        data = b""
        with self._physical(address, size):
            while len(data) < size:
                at, step = address + len(data), min(_PIECE, size - len(data))
                reply = self._packet(f"m{at:x},{step:x}")
                try:
                    piece = bytes.fromhex(reply.decode("ascii"))
                except ValueError:
                    piece = b""
                if not piece or len(piece) > step:
                    raise MemoryUnreadable(at, step, f"the stub answers {reply[:20].decode('ascii', 'replace') or 'nothing'}")
                data += piece
        return data

    def write_memory(self, address: int, data: bytes) -> None:
        with self._physical(address, len(data)):
            for offset in range(0, len(data), _PIECE // 2):
                piece = data[offset : offset + _PIECE // 2]
                reply = self._packet(f"M{address + offset:x},{len(piece):x}:{piece.hex()}")
                if reply != b"OK":
                    raise MemoryUnreadable(address + offset, len(piece), f"the stub answers {reply[:20]!r} to a write")
        _execute("maintenance flush dcache")

    @contextmanager
    def _physical(self, address: int, size: int) -> Iterator[None]:
        cr0 = _value(self._stopped(), "cr0")
        if not paging_on({"cr0": cr0 or 0}):
            yield
            return
        before = self._packet("qqemu.PhyMemMode")
        if before not in (b"0", b"1"):
            raise MemoryUnreadable(address, size, "paging is on, and this stub reads virtual addresses only")
        if before == b"0":
            self._packet("Qqemu.PhyMemMode:1")
        try:
            yield
        finally:
            if before == b"0":
                self._packet("Qqemu.PhyMemMode:0")

    def _packet(self, packet: str) -> bytes:
        try:
            return self._stub.send_packet(packet) or b""
        except (gdb.error, RuntimeError) as error:
            raise TargetLost(f"{self._name} does not answer GDB: {error}", "target remote it again") from error

    # --- packets, for thousands of steps: GDB's own step costs ten times as much ----------------------------------

    @property
    def layout(self) -> RegisterLayout:
        """How this stub's `g` packets are laid out."""
        if self._layout is None:
            self._layout = layout_for(len(self.packet()) // 2)
        return self._layout

    def follow(self, cpu: int | None) -> None:
        """The CPU of GDB's own thread is followed. Raises TargetError for a choice of another."""
        if cpu is not None and cpu != self.cpu:
            raise TargetError(
                "inside GDB only the CPU of GDB's thread is stepped", "trace with --engine log, or choose it with: thread N"
            )

    def packet(self) -> bytes:
        """The registers as the stub sends them, in hexadecimal."""
        return self._packet("g")

    def step_packet(self, pc: int, ahead: tuple[int, int] | None = None) -> tuple[Stop, bytes, bytes]:
        """One instruction, and the registers after it. GDB notices at its next command; its breakpoints are not in the machine.

        Not for steps that may wait: GDB gives up after `remotetimeout`. Memory at `ahead` would cost a packet, and is not read.
        """
        self._moved = True
        stop = stop_of(replies.stop_reply(self._packet("s")))
        return stop, self._packet("g") if stop.kind is not StopKind.EXITED else b"", b""

    def follow_control(self) -> None:
        pass  # GDB steps the machine too, and is not seen

    def followed(self) -> Control | None:
        return None

    def read_linear(self, address: int, size: int) -> bytes:
        """A little memory at a linear address, as the CPU translates it. Raises MemoryUnreadable."""
        reply = self._packet(f"m{address:x},{min(size, _PIECE):x}")
        if not reply or replies.error_code(reply) is not None:
            raise MemoryUnreadable(address, size, "it is not mapped")
        return replies.unhex(reply, min(size, _PIECE))

    def peer_command(self) -> tuple[str, ...]:
        """The command line of the VMM, where GDB's connection is a unix socket on this host; empty where it cannot be read."""
        return command_behind(self._name)

    def alive(self) -> bool:
        return bool(self._stub.is_valid())

    @property
    def cpu(self) -> int | None:
        """That of GDB's thread, by QEMU's number for it: thread 1.2 is CPU 1."""
        thread: gdb.InferiorThread | None = gdb.selected_thread()
        return thread.ptid[1] - 1 if self._has_monitor and thread is not None and thread.is_valid() and thread.ptid[1] > 0 else None

    # --- running --------------------------------------------------------------------------------------------------

    def set_breakpoint(self, address: int) -> None:
        if address not in self._breakpoints:
            try:
                made = gdb.Breakpoint(f"*{address:#x}", type=gdb.BP_HARDWARE_BREAKPOINT, internal=True)
            except gdb.error as error:
                raise TargetError(f"no hardware breakpoint at {address:#x}: {error}", "delete one of GDB's") from error
            made.silent = True
            self._breakpoints[address] = made

    def clear_breakpoint(self, address: int) -> None:
        found = self._breakpoints.pop(address, None)
        if found is not None and found.is_valid():
            found.delete()

    def resume(self) -> None:
        """Nothing yet: the guest runs while `wait` waits."""
        self._stopped()

    def wait(self, timeout: float) -> Stop:
        """Let the guest run to its next stop. After `timeout` seconds it is interrupted, and TargetTimeout raised."""
        stop, expired = self._bounded(self.run, timeout)
        if expired:
            raise TargetTimeout(f"the guest did not stop within {timeout:g} s", "give it more time")
        return stop

    def _bounded(self, run: Callable[[int], Stop], timeout: float) -> tuple[Stop, bool]:
        """A run with a number of its own, which is interrupted after `timeout` seconds, and whether it was."""
        expired = threading.Event()
        self._waits += 1
        number = -self._waits

        def expire() -> None:
            expired.set()
            self.stop_soon(number)

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            stop = run(number)
        finally:
            timer.cancel()
        return stop, expired.is_set() and stop.kind is StopKind.INTERRUPT

    def run(self, number: int) -> Stop:
        """Let the guest run, and return at its next stop."""
        self._going = number
        if self._ended == number:
            self._going = None
            return Stop(StopKind.INTERRUPT, 2, "ended before it began")
        return self._run("continue")

    def stop_soon(self, number: int) -> None:
        """Make the run of that number return. Can be called from any thread.

        An event that GDB never handled makes GDB 13 crash on exit. So nothing is posted to a GDB that does not run the guest; and where both
        Ctrl-C and the work end a run, nothing twice, unless the guest runs on for _OBEYS seconds.
        """
        with self._posting:
            self._ended = number
            now = time.monotonic()
            if self._going == number and (self._posted != number or now > self._posted_at + _OBEYS):
                self._posted, self._posted_at = number, now
                gdb.post_event(lambda: _quietly("interrupt") if self._going == number else None)

    def step(self) -> Stop:
        """One instruction. A CPU that has executed `hlt`, or waits to be started, does not step: it is interrupted where it is."""

        def one(number: int) -> Stop:
            self._going = number
            return self._run("stepi")

        stop, waits = self._bounded(one, STEP_TIME)
        return replace(stop, text=WAITS) if waits else stop

    def interrupt(self) -> Stop:
        """The guest runs only while `wait` waits, which stops it."""
        return Stop(StopKind.INTERRUPT, 2, "already stopped")

    def _run(self, command: str) -> Stop:
        self._last = Stop(StopKind.BREAKPOINT, 5, "stopped")
        followed: gdb.InferiorThread | None = gdb.selected_thread()  # none where no machine is connected
        gdb.events.stop.connect(self._on_stop)
        gdb.events.exited.connect(self._on_exit)
        try:
            with silence(), muted():
                _execute(command)
                # QEMU 10 may report a stop of ours for another CPU. GDB selects it, and a step of a CPU that waits for its start never ends.
                if followed is not None and followed.is_valid():
                    followed.switch()
        finally:
            self._going = None
            gdb.events.stop.disconnect(self._on_stop)
            gdb.events.exited.disconnect(self._on_exit)
        return self._last

    def _on_stop(self, event: object) -> None:
        self._going = None
        if isinstance(event, gdb.SignalEvent):
            words = "the guest shut down or triple-faulted" if event.stop_signal == "SIGQUIT" else event.stop_signal
            self._last = Stop(_SIGNALS.get(event.stop_signal, StopKind.ERROR), 5, words)
        elif isinstance(event, gdb.BreakpointEvent) and not any(one in self._breakpoints.values() for one in event.breakpoints):
            self._last = Stop(StopKind.INTERRUPT, 5, f"breakpoint {event.breakpoints[0].number}")
        else:
            self._last = Stop(StopKind.BREAKPOINT, 5, "stopped")

    def _on_exit(self, event: object) -> None:
        self._last = Stop(StopKind.EXITED, 0, "the VMM exited")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A run that stops at our own addresses only: without the user's breakpoints, and without GDB's pagination."""
        self.disabled += [one for one in gdb.breakpoints() if one.enabled]
        paged = gdb.parameter("pagination")
        try:
            gdb.execute("set pagination off")
            for one in self.disabled:
                one.enabled = False
            yield
        finally:
            self.disabled = [one for one in self.disabled if one.is_valid() and not _enabled(one)]
            gdb.execute(f"set pagination {'on' if paged else 'off'}")

    # --- monitor --------------------------------------------------------------------------------------------------

    def monitor(self, command: str) -> str:
        """QEMU's human monitor, through GDB's `monitor`. A reset by it makes GDB's registers stale: they are read again.

        The monitor has a CPU of its own, the first one at its start: what speaks of one CPU is asked about that of GDB's thread.
        """
        self._stopped()
        cpu = self.cpu if command == "info registers" else None
        said = _execute(f"monitor {command}") if cpu is None or not self._several() else self._asked_about(cpu, command)
        if command == "system_reset":
            _execute("maintenance flush register-cache")
        return said

    def _several(self) -> bool:
        return len(gdb.selected_inferior().threads()) > 1

    def _asked_about(self, cpu: int, command: str) -> str:
        """What the monitor says about a CPU; its own choice is put back."""
        marked = re.search(r"^\* CPU #(\d+)", _execute("monitor info cpus"), re.MULTILINE)
        _execute(f"monitor cpu {cpu}")
        try:
            return _execute(f"monitor {command}")
        finally:
            _execute(f"monitor cpu {marked[1] if marked is not None else 0}")

    def close(self, leave: Leave) -> bool:
        """Only our breakpoints go: the machine is GDB's."""
        for address in tuple(self._breakpoints):
            try:
                self.clear_breakpoint(address)
            except (gdb.error, PvhdbgError):
                pass
        return True


def _value(frame: gdb.Frame, name: str) -> int | None:
    """A register's value; None where GDB has none of that name, or the stub does not show it."""
    try:
        text = frame.read_register(name).format_string(format="x")
        return int(text, 16) & (1 << 64) - 1
    except (ValueError, gdb.error):
        return None


def _gone(error: Exception) -> TargetLost:
    return TargetLost(f"the machine is gone: {error}", "start it again, and target remote it")


def _execute(command: str) -> str:
    try:
        return gdb.execute(command, False, True)
    except gdb.error as error:
        text = str(error)
        if any(words in text for words in _GONE):
            raise _gone(error) from error
        raise TargetError(text, "see what GDB says: info target") from error


def _enabled(breakpoint: gdb.Breakpoint) -> bool:
    try:
        breakpoint.enabled = True
    except gdb.error:
        return False
    return True


def _quietly(command: str) -> None:
    try:
        gdb.execute(command, False, True)
    except gdb.error:
        pass  # it stopped by itself meanwhile
