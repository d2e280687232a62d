"""`RemoteTarget`: a machine behind a gdbstub, over our own RSP client. Needs no GDB.

The rules that keep QEMU's stub, and the guest, unharmed (measured on 7.2 and 10.0):

1. `G` is never sent: outside 64-bit code QEMU reads it in another width than it writes `g`, and clears cr0.PE. `P` is used instead.
2. `bs` and `bc` abort a QEMU that does not replay. They are never sent.
3. `?` removes every breakpoint: it is sent once, before any is set.
4. `c` on top of a breakpoint stops again at once: resume lifts it, steps, and sets it again.
5. A second client connects and is never answered: every wait has a time-out, with an error that says so.
6. `m` of more than the stub offers fails: reads are cut into pieces.
7. With paging on, `m` means virtual addresses: PhyMemMode is switched on around a read and then restored. In that
   mode QEMU answers zeros for what is not there, so a caller asks for backed memory only (`info mtree`).
8. Connecting stops the machine. Closing the socket leaves it stopped; `D` lets it run. `k` ends a QEMU 7.2; later ones take it
   for a shutdown of the guest, which -no-shutdown keeps: the monitor's `quit` ends all of them.
9. After a step that hits a watchpoint, the next step or `c` stops at once, before any instruction: it is sent again (7.2 to 11.1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pvhdbg.decode.cpu_mode import paging_on
from pvhdbg.decode.followed_control import Control
from pvhdbg.errors import MemoryUnreadable, ProtocolError, PvhdbgError, TargetError, TargetLost, TargetTimeout
from pvhdbg.leaving import putting_back
from pvhdbg.model import SELECTORS, Registers
from pvhdbg.record import replace
from pvhdbg.rsp import replies
from pvhdbg.rsp.registers import RegisterLayout, layout_for
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.control_follower import ControlFollower
from pvhdbg.targets.keeper import Keeper
from pvhdbg.targets.peer import command_of, files_of
from pvhdbg.targets.target import STEP_TIME, WAITS, Capabilities, Leave, Stop, StopKind, WatchKind, Watchpoint
from pvhdbg.targets.wire import Wire

_STOP_TIME = 2.0  # seconds that a VMM may take to stop its machine
_PIECE = 0x800  # bytes that every QEMU answers in one `m`
_PIECE_BOUND = 0x8000
_TOGETHER = 16  # reads that are sent to a QEMU at once: its answers to them fit into a socket's buffer
_MONITOR_BOUND = 8 << 20
_CPUS = 4096
_DIGITS = b"0123456789abcdefABCDEFx"
_THREAD = re.compile(r"p[0-9a-fA-F]{1,8}\.[0-9a-fA-F]{1,8}")
_WATCH = {WatchKind.WRITE: 2, WatchKind.READ: 3, WatchKind.ANY: 4}  # Z2, Z3, Z4
_WATCHED_FOR = {"": WatchKind.WRITE, "r": WatchKind.READ, "a": WatchKind.ANY}
_STANDS = (StopKind.BREAKPOINT, StopKind.INTERRUPT, StopKind.SHUTDOWN)


class RemoteTarget:
    """A `Target` over a socket. Make one with `connect`."""

    via = "g packet"

    def __init__(self, wire: Wire, timeout: float, keeper: Keeper | None = None) -> None:
        self._wire = wire
        self._keeper = keeper
        self._timeout = timeout
        self._layout: RegisterLayout | None = None
        self._breakpoints: set[int] = set()
        self._watchpoints: set[Watchpoint] = set()
        self._owed: int | None = None  # the pc after a step that hit a watchpoint: rule 9
        self._running = False
        self._closed = False
        self._as_it_runs = False  # steps take interrupts
        self._thread: str | None = None
        self._followed: str | None = None  # the thread that is read, whichever stopped
        self._cr0_hint: int | None = None
        self._pc: int | None = None  # as last read, while nothing can have changed it: a step then needs one request less
        self._described = False
        self._control = ControlFollower(self._read_g, self.read_linear)
        self._physical_on = False  # PhyMemMode, which is QEMU's, not this connection's
        self._features = self._handshake()
        self._piece = self._piece_size()
        self._physical_mode = "PhyMemMode" in self._ask_text("qqemu.Supported")
        self._has_monitor = self._ask_monitor()
        if keeper is not None:
            keeper.holds(self.was_running())

    @classmethod
    def connect(
        cls,
        address: StubAddress,
        *,
        timeout: float = 10.0,
        progress: Callable[[str], None] = lambda _: None,
        keeper: Keeper | None = None,
    ) -> RemoteTarget:
        """Connect to a gdbstub; the machine is stopped by that. Raises TargetLost, TargetTimeout, ProtocolError.

        A `keeper` learns which changes to undo if this process is killed.
        """
        if keeper is not None:
            keeper.connects()
        try:
            wire = Wire(address, timeout, progress)
        except TargetLost:
            if keeper is not None:
                keeper.put_back()
            raise
        try:
            return cls(wire, timeout, keeper)
        except TargetTimeout:
            wire.close()
            if keeper is not None and not wire.heard:
                keeper.put_back()  # another client may hold the stub, and leave the machine in its own way
            raise
        except BaseException:
            wire.close()
            raise

    @property
    def name(self) -> str:
        return self._wire.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            monitor=self._has_monitor,
            packets=True,
            width=self._known_layout().width,
            watchpoints=True,
            steps_take_interrupts=self._as_it_runs,
        )

    @property
    def cpu(self) -> int | None:
        """The number of the selected CPU, from 0, where the stub's threads are CPUs (QEMU)."""
        _, dot, number = (self._thread or "").rpartition(".")
        try:
            return int(number, 16) - 1 if dot else None
        except ValueError:
            return None

    def follow(self, cpu: int | None) -> None:
        """Select one CPU of several for reads and steps, while the others run; None: the one that stopped last.

        Raises TargetError for an unknown CPU.
        """
        if cpu is None:
            self._followed = None
            return
        self._stopped()
        thread = self._threads().get(cpu)
        if thread is None:
            raise TargetError(f"{self.name} has no CPU {cpu}", "the first is 0; --cpus says how many a machine has")
        self._pc = self._cr0_hint = None
        self._expect_ok(f"Hg{thread}", f"CPU {cpu} cannot be selected")
        self._thread = self._followed = thread

    def _threads(self) -> dict[int, str]:
        """The stub's threads by the number of their CPU."""
        found: dict[int, str] = {}
        reply = self._ask_text("qfThreadInfo")
        for _ in range(_CPUS):  # each answer names one at least
            if not reply.startswith("m") or len(found) >= _CPUS:
                break
            for thread in reply[1:].split(","):
                if _THREAD.fullmatch(thread):
                    found[int(thread.rpartition(".")[2], 16) - 1] = thread
            reply = self._ask_text("qsThreadInfo")
        return found

    # --- connecting -----------------------------------------------------------------------------------------------

    def _handshake(self) -> dict[str, str]:
        # QEMU answers a stop reply without pXX.YY threads to a client that does not say multiprocess+.
        answer = self._wire.greet(b"qSupported:multiprocess+;xmlRegisters=i386;vContSupported+", self._timeout)
        found = replies.features(answer)
        self._take(self._wire.request(b"?", self._timeout))
        return found

    def _piece_size(self) -> int:
        try:
            offered = int(self._features.get("PacketSize", "0"), 16)
        except ValueError:
            offered = 0
        return min(max((offered - 16) // 2, _PIECE), _PIECE_BOUND) if offered > 0x1000 else _PIECE

    def _ask_text(self, query: str) -> str:
        return self._wire.request(query.encode("ascii"), self._timeout).decode("ascii", "replace")

    def _ask_monitor(self) -> bool:
        try:
            return bool(self._command("info version"))
        except TargetError:
            return False

    def _known_layout(self) -> RegisterLayout:
        if self._layout is None:
            self._read_g()
        assert self._layout is not None
        return self._layout

    def was_running(self) -> bool:
        """Whether the machine ran before we connected; called right after connecting. QEMU stops it then, and up to 8.0 reports it.

        From 8.1 on, a machine that was paused through the monitor looks the same, and counts as one that ran.
        """
        if self._wire.stops or not self._has_monitor:  # other stubs stop the machine on connecting, too
            return True
        if not self.is_paused():
            return False
        from pvhdbg.decode import qemu_monitor  # for most machines it is imported while they run

        return not qemu_monitor.tells_stops(self._command("info version"))

    def is_paused(self) -> bool:
        """Whether the machine was stopped by a request while it ran: not at a breakpoint, nor before its start."""
        return self._command("info status").strip() == "VM status: paused"

    # --- registers ------------------------------------------------------------------------------------------------

    def _read_g(self) -> dict[str, int]:
        self._stopped()
        data = self._wire.request(b"g", self._timeout)
        if replies.error_code(data) is not None or not data:
            raise TargetError(f"{self.name} does not show its registers ({data.decode('ascii', 'replace') or 'empty'})",
                              "is this the stub of an x86 guest?")  # fmt: skip
        if self._layout is None:
            self._layout = layout_for(len(data) // 2)
        values = self._layout.decode(data)
        self._pc = values.get("rip")
        return values

    def read_registers(self) -> Registers:
        """All registers that the stub shows. Control registers that it does not know are absent, never 0."""
        values = self._read_g()
        assert self._layout is not None
        missing = "this stub does not show it"
        if self._layout.slot("cr0") is None and not any(values.get(name) for name in SELECTORS):
            # Firecracker's stub sends zeros for selectors that it never read.
            values = {name: value for name, value in values.items() if name not in SELECTORS}
            missing = "this stub shows general registers only"
        self._cr0_hint = values.get("cr0")
        return Registers(values, missing)

    def write_register(self, name: str, value: int) -> None:
        """Change one register, by a `P` packet."""
        slot = self._known_layout().slot(name)
        if slot is None:
            raise TargetError(f"{self.name} has no register {name}", "write another one")
        self._stopped()
        self._pc = None
        if not self._described:
            # QEMU answers nothing to `P` before the target description was asked for.
            self._wire.request(b"qXfer:features:read:target.xml:0,ffb", self._timeout)
            self._described = True
        digits = (value & ((1 << 8 * slot.size) - 1)).to_bytes(slot.size, "little").hex()
        self._expect_ok(f"P{slot.number:x}={digits}", f"register {name} cannot be written")

    # --- memory ---------------------------------------------------------------------------------------------------

    def read_memory(self, address: int, size: int) -> bytes:
        """Guest-physical memory. Raises MemoryUnreadable with the reason."""
        self._stopped()
        data = bytearray()
        starts, end = range(address, address + size, self._piece), address + size
        together = _TOGETHER if self._has_monitor else 1
        with self._physical(address, size):
            for first in range(0, len(starts), together):
                asked = [(at, min(self._piece, end - at)) for at in starts[first : first + together]]
                for (at, step), reply in zip(asked, self._asked([b"m%x,%x" % piece for piece in asked]), strict=True):
                    code = replies.error_code(reply)
                    if code is not None or not reply:
                        raise MemoryUnreadable(at, step, f"the stub answers {reply.decode('ascii', 'replace') or 'nothing'}")
                    data += replies.unhex(reply, step)
        return bytes(data)

    def _asked(self, requests: list[bytes]) -> list[bytes]:
        if len(requests) > 1:
            return self._wire.together(requests, self._timeout)
        return [self._wire.request(requests[0], self._timeout)]

    def read_linear(self, address: int, size: int) -> bytes:
        """Up to one piece of memory at a linear address, translated by the stopped CPU: one round trip.

        Raises MemoryUnreadable where it is not mapped. (QEMU: unless PhyMemMode is on.)
        """
        self._stopped()
        reply = self._wire.request(b"m%x,%x" % (address, min(size, self._piece)), self._timeout)
        if replies.error_code(reply) is not None or not reply:
            raise MemoryUnreadable(address, size, "it is not mapped")
        return replies.unhex(reply, min(size, self._piece))

    def write_memory(self, address: int, data: bytes) -> None:
        """Write guest-physical memory."""
        self._stopped()
        with self._physical(address, len(data)):
            step = self._piece // 2  # the packet holds address, length, and two digits a byte
            for offset in range(0, len(data), step):
                piece = data[offset : offset + step]
                reply = self._wire.request(b"M%x,%x:%s" % (address + offset, len(piece), piece.hex().encode()), self._timeout)
                if reply != b"OK":
                    raise MemoryUnreadable(address + offset, len(piece), f"the stub answers {reply[:20]!r} to a write")

    @contextmanager
    def _physical(self, address: int, size: int) -> Iterator[None]:
        cr0 = self._cr0_hint
        if cr0 is None:
            cr0 = self._read_g().get("cr0", 0)
            self._cr0_hint = cr0
        if not paging_on({"cr0": cr0}):
            yield
            return
        if not self._physical_mode:
            raise MemoryUnreadable(address, size, "paging is on, and this stub reads virtual addresses only")
        before = self._ask_text("qqemu.PhyMemMode")
        if before == "1":
            yield
            return
        self._physical_on = True
        try:
            self._expect_ok("Qqemu.PhyMemMode:1", "physical memory cannot be read")
            yield
        finally:
            with putting_back("QEMU's PhyMemMode"):
                self._virtual_memory()

    def _virtual_memory(self) -> None:
        self._expect_ok("Qqemu.PhyMemMode:0", "PhyMemMode could not be put back")
        self._physical_on = False

    # --- running --------------------------------------------------------------------------------------------------

    @property
    def breakpoints(self) -> frozenset[int]:
        """The linear addresses of the breakpoints that are set."""
        return frozenset(self._breakpoints)

    def set_breakpoint(self, address: int) -> None:
        """A hardware breakpoint (`Z1`): software ones are overwritten by what loads the kernel."""
        self._stopped()
        if address not in self._breakpoints:
            self._breakpoints.add(address)  # before the packet: an interrupted request must be cleared, too
            try:
                self._expect_ok(f"Z1,{address:x},1", f"no hardware breakpoint at {address:#x}")
            except (TargetLost, TargetTimeout):
                raise  # it may have been set
            except TargetError:
                self._breakpoints.discard(address)
                raise

    def clear_breakpoint(self, address: int) -> None:
        if address in self._breakpoints:
            self._stopped()
            self._expect_ok(f"z1,{address:x},1", f"the breakpoint at {address:#x} could not be removed")
            self._breakpoints.discard(address)

    def set_watchpoint(self, one: Watchpoint) -> bool:
        """See `Watching`."""
        self._stopped()
        if one in self._watchpoints:
            return True
        self._watchpoints.add(one)  # before the packet, as with breakpoints
        reply = self._wire.request(b"Z" + _range_of(one), self._timeout)
        if reply == b"OK":
            return True
        self._watchpoints.discard(one)
        if not reply:
            return False
        answer = reply.decode("ascii", "replace")[:20]
        raise TargetError(
            f"no watchpoint for {one.size} bytes at {one.address:#x} ({self.name} answers: {answer})",
            "watch 1, 2, 4 or 8 bytes at an address that is a multiple of that, or delete another one",
        )

    def clear_watchpoint(self, one: Watchpoint) -> None:
        """See `Watching`."""
        if one in self._watchpoints:
            self._stopped()
            reply = self._wire.request(b"z" + _range_of(one), self._timeout)
            if reply != b"OK":
                answer = reply.decode("ascii", "replace")[:20] or "not supported"
                raise TargetError(
                    f"the watchpoint at {one.address:#x} could not be removed ({self.name} answers: {answer})",
                    "start the VMM again",
                )
            self._watchpoints.discard(one)

    def resume(self) -> None:
        """Let the machine run, off a breakpoint at the current pc first."""
        self._stopped()
        if self._read_g().get("rip") in self._breakpoints:
            self.step()
        self._wire.stops.clear()  # they belong to earlier runs
        self._cr0_hint = None
        self._control.lose()
        self._running = True  # before the packet: an interrupt meanwhile must stop it
        self._wire.send(b"c")

    def wait(self, timeout: float) -> Stop:
        """The next stop of a running machine."""
        if not self._running:
            raise TargetError("the machine is not running", "resume it first")
        deadline = time.monotonic() + timeout
        stop = self._take(self._stop_reply(timeout))
        owed, self._owed = self._owed, None
        if owed is None or owed in self._breakpoints or not self._stands_still(stop, owed):
            return stop
        self._running = True
        self._wire.send(b"c")
        return self.wait(max(deadline - time.monotonic(), 0))

    def _stands_still(self, stop: Stop, pc: int) -> bool:
        """Whether a stop came before any instruction ran, and for no reason."""
        return stop.kind is StopKind.BREAKPOINT and stop.watched is None and self._read_g().get("rip") == pc

    def step(self) -> Stop:
        """One instruction; a breakpoint at the current pc is lifted for it.

        A CPU that has executed `hlt` does not step, and QEMU leaves the request unanswered: it is then interrupted where it is.
        """
        self._stopped()
        pc = self._pc if self._pc is not None else self._read_g().get("rip", -1)
        owed, self._owed = self._owed, None
        stop = self._step(pc)
        if owed == pc and self._stands_still(stop, pc):
            stop = self._step(pc)
        if stop.watched is not None:
            self._owed = self._read_g().get("rip")
        return stop

    def _step(self, pc: int) -> Stop:
        here = pc in self._breakpoints
        control = self._control.after(pc)
        if here:
            self._expect_ok(f"z1,{pc:x},1", "the breakpoint could not be lifted for a step")
        try:
            self._cr0_hint = None
            self._running = True
            self._wire.send(self._one_step())
            try:
                stop = self._take(self._stop_reply(min(self._timeout, STEP_TIME)))
                self._control.now = control
                return stop
            except TargetTimeout:
                return replace(self._take(self._stop_reply(self._timeout, ask=True)), text=WAITS)
        finally:
            if here:
                self._expect_ok(f"Z1,{pc:x},1", "the breakpoint could not be set again after a step")

    @property
    def layout(self) -> RegisterLayout:
        """How this stub's `g` packets are laid out."""
        return self._known_layout()

    def packet(self) -> bytes:
        """The registers as the stub sends them, in hexadecimal: for callers that read many and decode few."""
        self._stopped()
        return self._whole(self._wire.request(b"g", self._timeout))

    def _whole(self, packet: bytes) -> bytes:
        """A raw g packet. Raises TargetError, or ProtocolError for a malformed one, in which missing registers would read as 0.

        It may contain "xx" for unavailable bytes.
        """
        layout = self._known_layout()
        size = 2 * layout.length
        if (len(packet) == size or (len(packet) > size and not layout.exact)) and not packet[:size].translate(None, _DIGITS):
            return packet
        if replies.error_code(packet) is not None or not packet:
            raise TargetError(f"{self.name} does not show its registers any more ({packet.decode('ascii', 'replace') or 'empty'})",
                              "look at the VMM's own messages")  # fmt: skip
        raise ProtocolError(
            f"the stub answered {packet[:40]!r} where {layout.length} bytes of registers belong", "start the VMM again"
        )

    def step_packet(self, pc: int, ahead: tuple[int, int] | None = None) -> tuple[Stop, bytes, bytes]:
        """One instruction from `pc`, the current one, and the registers after it; empty when it did not stop after the step.

        Two round trips instead of the three or more of `step` and `read_registers`. The third is memory at `ahead`, a linear
        address and a size, as it is after the step: no round trip of its own. Empty where that is not possible.
        """
        if pc in self._breakpoints:
            stop = self.step()
        else:
            self._cr0_hint = None
            control = self._control.after(pc)
            stop = self._take(self._wire.request(self._one_step(), self._timeout, more=True))
            self._control.now = control
        if stop.kind not in _STANDS:
            return stop, b"", b""
        if ahead is None or not self._has_monitor:
            return stop, self._whole(self._wire.request(b"g", self._timeout)), b""
        packet, memory = self._wire.together((b"g", b"m%x,%x" % ahead), self._timeout)
        return stop, self._whole(packet), b"" if replies.error_code(memory) is not None else replies.unhex(memory)

    def follow_control(self) -> None:
        """See `Steppable`."""
        if self._known_layout().slot("cr0") is None:
            self._control.start()

    def followed(self) -> Control | None:
        """See `Steppable`."""
        return self._control.now

    def _one_step(self) -> bytes:
        return b"s" if self._followed is None else f"vCont;s:{self._followed};c".encode("ascii")

    def steps_as_it_runs(self) -> None:
        """QEMU: let a step take an interrupt that is due, and the clock go on, as if the guest ran. It stays so for later connections."""
        self._expect_ok("Qqemu.sstep=1", "steps cannot be told to take interrupts")
        self._as_it_runs = True

    def interrupt(self) -> Stop:
        """Stop a running machine."""
        if not self._running:
            return Stop(StopKind.INTERRUPT, 2, "already stopped")
        try:
            return self._take(self._stop_reply(min(self._timeout, _STOP_TIME), ask=True))
        except TargetTimeout:
            self._wire.silent()
            raise

    def _stop_reply(self, timeout: float, *, ask: bool = False) -> bytes:
        try:
            if ask:
                self._wire.interrupt()
            return self._wire.receive(self._wire.until(timeout) if ask else time.monotonic() + timeout)
        except TargetLost:
            self._running = False  # else every later request would fail with "interrupt it first"
            raise

    def _take(self, data: bytes) -> Stop:
        reply = replies.stop_reply(data)
        self._running, self._pc = False, None
        if reply.kind in "WX":
            self._closed = True
            return stop_of(reply)
        looked_at = reply.thread if self._followed is None else self._followed
        if looked_at is not None and (looked_at != self._thread or looked_at != reply.thread):
            self._thread = looked_at
            self._wire.request(b"Hg" + looked_at.encode("ascii"), self._timeout)
        return stop_of(reply)

    # --- monitor --------------------------------------------------------------------------------------------------

    def monitor(self, command: str) -> str:
        """QEMU's human monitor, by `qRcmd`. `info registers` speaks of the monitor's CPU, whatever thread is selected."""
        if not self._has_monitor:
            raise TargetError(f"{self.name} has no monitor", "a gdbstub of QEMU has one")
        self._stopped()
        self._cr0_hint = self._pc = None
        if self._keeper is None:
            return self._command(command)
        self._keeper.before(command)
        said = self._command(command)
        self._keeper.after(command)
        return said

    def _command(self, command: str) -> str:
        self._wire.send(b"qRcmd," + command.encode("utf-8").hex().encode("ascii"))
        if self._wire.blind:
            return ""
        deadline = self._wire.until(self._timeout)
        said = bytearray()
        while True:
            try:
                reply = self._wire.receive(deadline)
            except TargetTimeout:
                self._wire.silent()
                raise
            if reply.startswith(b"O") and reply != b"OK":
                said += replies.unhex(reply[1:])
                if len(said) > _MONITOR_BOUND:
                    raise TargetError(f"{self.name} prints without end", "start the VMM again")
            elif replies.is_stop(reply):
                self._wire.stops.append(reply)
            elif reply == b"OK":
                self._wire.answered()
                return said.decode("utf-8", "replace")
            else:
                self._wire.answered()
                text = reply.decode("ascii", "replace")
                raise TargetError(f"{self.name} does not take monitor commands ({text[:20] or 'empty reply'})", "use QEMU's stub")

    def peer_files(self) -> tuple[str, ...]:
        """What the VMM behind a unix socket has open, as the kernel names it; empty where that cannot be learnt."""
        return files_of(self._wire.peer())

    def peer_command(self) -> tuple[str, ...]:
        """The command line of the VMM behind a unix socket, as the kernel shows it; empty where that cannot be learnt."""
        return command_of(self._wire.peer())

    # --- leaving --------------------------------------------------------------------------------------------------

    def close(self, leave: Leave) -> bool:
        """Clear our breakpoints and leave the machine running, stopped, or killed. Never raises; False: it was not seen to end."""
        if self._closed:
            self._wire.close()
            return True
        self._closed = True
        with putting_back(f"the breakpoints of the machine at {self.name}"):
            try:
                return self._put_back(leave)
            finally:
                self._wire.close()
                if self._keeper is not None and not self._wire.blind:
                    self._keeper.put_back()

    def _put_back(self, leave: Leave) -> bool:
        """Each thing by itself. A stub that does not answer is told all the same: it may read that later."""
        breakpoints = [partial(self.clear_breakpoint, address) for address in tuple(self._breakpoints)]
        steps: list[Callable[[], object]] = [
            self._stand_still,
            self._put_back_memory_mode,
            *breakpoints,
            *(partial(self.clear_watchpoint, one) for one in tuple(self._watchpoints)),
            partial(self._let_go, leave),
        ]
        for step in steps:
            try:
                step()
            except TargetLost:
                return True  # and all of it is gone
            except TargetTimeout:
                self._wire.blind, self._running = True, False
            except PvhdbgError:
                pass  # it refuses this one thing
        return leave is not Leave.KILLED

    def _stand_still(self) -> None:
        if not self._running:
            return
        try:
            self.interrupt()
        except TargetTimeout:  # its stop reply came already, and was lost by an interrupt
            self._running = False
            self._take(self._wire.request(b"?", self._timeout))

    def _put_back_memory_mode(self) -> None:
        if self._physical_on:
            self._virtual_memory()

    def put_back_memory_mode(self) -> None:
        """The same for a mode that another client left on. Raises TargetError."""
        if self._physical_mode:
            self._virtual_memory()

    def _let_go(self, leave: Leave) -> None:
        if leave is Leave.RUNNING:
            self._wire.request(b"D;1" if "multiprocess" in self._features else b"D", self._timeout)
        elif leave is Leave.KILLED:
            self._end()

    def _end(self) -> None:
        """End the VMM. Raises TargetLost as soon as it closes the connection, which it does when it has ended, else TargetTimeout."""
        self._wire.send(b"qRcmd," + b"quit".hex().encode("ascii") if self._has_monitor else b"k")
        deadline = self._wire.until(self._timeout)
        while not self._wire.blind:
            if self._wire.receive(deadline).startswith((b"W", b"X")):
                raise TargetLost(f"{self.name} ended", "")

    def alive(self) -> bool:
        """Whether the connection still works. Sends nothing to the stub; a running machine counts as alive."""
        return not self._closed and (self._running or not self._wire.gone())

    def _stopped(self) -> None:
        if self._running:
            raise TargetError("the machine is running", "interrupt it first")

    def _expect_ok(self, packet: str, what: str) -> None:
        reply = self._wire.request(packet.encode("ascii"), self._timeout)
        if reply != b"OK":
            answer = reply.decode("ascii", "replace")[:20] or "not supported"
            raise TargetError(f"{what} ({self.name} answers: {answer})", "use another VMM, or fewer breakpoints")


def stop_of(reply: replies.StopReply) -> Stop:
    """What a stop reply means."""
    if reply.kind in "WX":
        return Stop(StopKind.EXITED, reply.number, reply.words)
    kinds = {2: StopKind.INTERRUPT, 3: StopKind.SHUTDOWN, 5: StopKind.BREAKPOINT}
    words = "the guest shut down or triple-faulted" if reply.number == 3 else reply.words
    kind = None if reply.watch is None else _WATCHED_FOR[reply.watched_for]
    return Stop(kinds.get(reply.number, StopKind.ERROR), reply.number, words, reply.watch, kind)


def _range_of(one: Watchpoint) -> bytes:
    return b"%d,%x,%x" % (_WATCH[one.access], one.address, one.size)
