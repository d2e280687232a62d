"""`GdbTarget`: a machine behind a gdbstub that a real GDB holds. The same `Target`, for when the stub serves GDB.

GDB loads no ELF file before it connects: with a 32-bit one it refuses the stub's 64-bit registers. The architecture is
set first, so that GDB expects what QEMU sends.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pvhdbg.decode.cpu_mode import paging_on
from pvhdbg.errors import MemoryUnreadable, PvhdbgError, TargetError, TargetLost, TargetTimeout
from pvhdbg.leaving import putting_back
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS, Registers
from pvhdbg.record import replace
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.keeper import Keeper
from pvhdbg.targets.mi import MachineInterface
from pvhdbg.targets.mi_answers import contents_of, readable, stop_of_record
from pvhdbg.targets.mi_channel import quoted
from pvhdbg.targets.target import END_IT, Capabilities, Leave, Stop, StopKind, WatchKind, Watchpoint

# Registers that are asked for: GDB has some hundred others.
_WANTED = frozenset({*GENERAL, *EXTENDED, "rip", *LOW_HALVES, "eflags", *SELECTORS, *CONTROL, "fs_base", "gs_base", "k_gs_base"})
_SETTINGS = ("confirm off", "pagination off", "width 0", "mi-async on", "may-call-functions off", "architecture i386:x86-64")
_PIECE = 1 << 16
_PATIENCE = 3600.0  # seconds that a user's own command may take
_BETWEEN = 1.0  # seconds between two checks of the connection
_SHORT = 0.3  # seconds for a GDB that was silent already
_PARTING = 2.0  # seconds for each step of the clean-up
_LOOK = 0.1  # seconds between two checks of the serial port and of Ctrl-C
_WATCH = {WatchKind.WRITE: "", WatchKind.READ: "-r ", WatchKind.ANY: "-a "}


class GdbTarget:
    """A `Target` through GDB/MI: GDB is started, and connects. Raises VmmFailed without a GDB, TargetLost and TargetTimeout without a stub."""

    via = "GDB"

    def __init__(
        self,
        address: StubAddress,
        *,
        timeout: float = 10.0,
        progress: Callable[[str], None] = lambda _: None,
        keeper: Keeper | None = None,
    ) -> None:
        self._address = address
        self._keeper = keeper
        self._timeout = timeout
        self._breakpoints: dict[int, str] = {}
        self._watchpoints: dict[Watchpoint, str] = {}
        self._owed: int | None = None  # the pc after a step that hit a watchpoint: see rule 9 in targets/remote.py
        self._running = False
        self._closed = False
        self._as_it_runs = False  # steps take interrupts
        self._asked = time.monotonic()
        self._registers: Registers | None = None  # as last seen, while nothing can have changed them
        seconds = max(int(timeout), 1)
        self._gdb = MachineInterface(settings=(*_SETTINGS, f"tcp connect-timeout {seconds}", f"remotetimeout {seconds}"))
        try:
            if keeper is not None:
                keeper.gdb(self._gdb.pid)
                keeper.connects()
            progress(f"connecting GDB to {address}")
            self._width = self._connect()
            self._numbers = self._register_numbers()
            self._has_monitor = self._ask_monitor()
            if keeper is not None:
                keeper.holds(not self._has_monitor or self._console("monitor info status").strip() == "VM status: paused")
        except BaseException:
            self._gdb.close()
            raise

    @property
    def name(self) -> str:
        return str(self._address)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            monitor=self._has_monitor,
            width=self._width,
            watchpoints=True,
            unwinds=True,
            steps_take_interrupts=self._as_it_runs,
        )

    # --- connecting -----------------------------------------------------------------------------------------------

    def _connect(self) -> int:
        where = self._address.for_gdb()
        errors: list[str] = []
        for architecture, width in (("i386:x86-64", 64), ("i386", 32)):
            if errors:
                self._gdb.command(f"-gdb-set architecture {architecture}", self._timeout)
            try:
                reply = self._gdb.command(f"-target-select remote {where}", self._timeout + 1)
            except TargetTimeout:  # GDB tries more than once
                raise TargetTimeout(f"{self._address} does not answer GDB", self._held()) from None
            if reply["message"] != "error":
                self._gdb.events.clear()
                return width if "i386" not in self._architecture() or "x86-64" in self._architecture() else 32
            errors.append(str(reply["payload"].get("msg", "no reason given")))
            if "refused" in errors[-1] or "No such file" in errors[-1]:
                break
        message = errors[0]
        if "imed out" in message or "timeout" in message.lower():
            raise TargetTimeout(f"{self._address} does not answer GDB: {message}", self._held())
        raise TargetLost(f"GDB cannot connect to {self._address}: {message}", "start the VMM with a gdbstub, e.g. QEMU with -S -s")

    def _held(self) -> str:
        return (f"another debugger may hold the stub: detach it. Its guest will be paused when it leaves: "
                f"pvhdbg release {shlex.quote(self.name)} lets it run on")  # fmt: skip

    def _architecture(self) -> str:
        reply = self._gdb.command('-interpreter-exec console "show architecture"', self._timeout)
        return "".join(reply["console"])

    def _register_numbers(self) -> dict[str, int]:
        payload = self._done("-data-list-register-names")
        with readable("names of registers"):
            return {name: number for number, name in enumerate(payload.get("register-names", [])) if name in _WANTED}

    def _ask_monitor(self) -> bool:
        try:
            return bool(self._console("monitor info version"))
        except TargetError:
            return False

    # --- registers ------------------------------------------------------------------------------------------------

    def read_registers(self) -> Registers:
        self._stopped()
        if self._registers is None:
            self._registers = self._asked_registers()
        return self._registers

    def _asked_registers(self) -> Registers:
        numbers = {number: name for name, number in self._numbers.items()}
        listed = " ".join(map(str, numbers))
        values: dict[str, int] = {}
        payload = self._done(f"-data-list-register-values --skip-unavailable x {listed}")
        with readable("registers"):
            for row in payload.get("register-values", []):
                name = numbers.get(int(row["number"]))
                try:
                    value = int(str(row["value"]), 16)
                except ValueError:
                    continue
                if name is not None and not (name in LOW_HALVES and LOW_HALVES[name] in self._numbers):
                    values[LOW_HALVES.get(name, name)] = value & (1 << 64) - 1
        return Registers(values, "GDB does not show it")

    def frames(self, most: int) -> tuple[int, ...]:
        """See `Unwinding`."""
        self._stopped()
        payload = self._done(f"-stack-list-frames --no-frame-filters 0 {most - 1}")
        with readable("frames"):
            return tuple(int(str(one["addr"]), 16) & (1 << 64) - 1 for one in payload.get("stack", [])[:most])

    def write_register(self, name: str, value: int) -> None:
        self._stopped()
        short = {full: half for half, full in LOW_HALVES.items()}
        known = name if name in self._numbers else short.get(name, "")
        if known not in self._numbers:
            raise TargetError(f"{self.name} has no register {name}", "write another one")
        self._registers = None
        # `maintenance packet` is not needed: GDB writes one register by P with QEMU's stub, which offers it.
        self._done(f"-gdb-set var ${known}={value:#x}")

    # --- memory ---------------------------------------------------------------------------------------------------

    def read_memory(self, address: int, size: int) -> bytes:
        self._stopped()
        data = bytearray()
        with self._physical(address, size):
            while len(data) < size:
                at, step = address + len(data), min(_PIECE, size - len(data))
                reply = self._gdb.command(f"-data-read-memory-bytes {at:#x} {step}", self._timeout)
                if reply["message"] == "error":
                    raise MemoryUnreadable(at, step, str(reply["payload"].get("msg", "GDB cannot read it")))
                data += contents_of(reply["payload"], at, step)
        return bytes(data)

    def write_memory(self, address: int, data: bytes) -> None:
        self._stopped()
        with self._physical(address, len(data)):
            for offset in range(0, len(data), 1024):
                piece = data[offset : offset + 1024]
                reply = self._gdb.command(f"-data-write-memory-bytes {address + offset:#x} {piece.hex()}", self._timeout)
                if reply["message"] == "error":
                    raise MemoryUnreadable(address + offset, len(piece), str(reply["payload"].get("msg", "GDB cannot write it")))

    @contextmanager
    def _physical(self, address: int, size: int) -> Iterator[None]:
        if not paging_on({"cr0": self.read_registers().get("cr0") or 0}):
            yield
            return
        before = self._packet("qqemu.PhyMemMode")
        if before not in ("0", "1"):
            raise MemoryUnreadable(address, size, "paging is on, and this stub reads virtual addresses only")
        if before == "0":
            self._packet("Qqemu.PhyMemMode:1")
            self._flush()
        try:
            yield
        finally:
            if before == "0":
                self._packet("Qqemu.PhyMemMode:0")
                self._flush()

    def steps_as_it_runs(self) -> None:
        """See `RemoteTarget.steps_as_it_runs`."""
        if self._packet("Qqemu.sstep=1") != "OK":
            raise TargetError(f"{self.name} cannot be told that steps take interrupts", "leave out --deterministic")
        self._as_it_runs = True

    def _packet(self, packet: str) -> str:
        text = self._console(f"maintenance packet {packet}")
        received = text.rpartition('received: "')[2]
        return received.partition('"')[0]

    def _flush(self) -> None:
        # GDB remembers stack and code memory by address, and does not know that addresses changed their meaning.
        self._console("maintenance flush dcache")

    # --- running --------------------------------------------------------------------------------------------------

    def set_breakpoint(self, address: int) -> None:
        self._stopped()
        if address not in self._breakpoints:
            reply = self._done(f"-break-insert -h *{address:#x}")
            with readable("breakpoint"):
                self._breakpoints[address] = str(int(reply["bkpt"]["number"]))  # it becomes a part of a command

    def clear_breakpoint(self, address: int) -> None:
        number = self._breakpoints.pop(address, None)
        if number is not None:
            self._stopped()
            self._done(f"-break-delete {number}")

    def set_watchpoint(self, one: Watchpoint) -> bool:
        """See `Watching`. GDB stops at a store only where it changes a value, and says at the next run what the stub refuses."""
        self._stopped()
        if one not in self._watchpoints:
            place = quoted(f"*(unsigned char (*)[{one.size}]){one.address:#x}")
            reply = self._done(f"-break-watch {_WATCH[one.access]}{place}")
            with readable("watchpoint"):
                (found,) = reply.values()
                self._watchpoints[one] = str(int(found["number"]))
        return True

    def clear_watchpoint(self, one: Watchpoint) -> None:
        """See `Watching`."""
        number = self._watchpoints.pop(one, None)
        if number is not None:
            self._stopped()
            self._done(f"-break-delete {number}")

    def resume(self) -> None:
        self._stopped()
        self._gdb.events.clear()
        self._registers = None
        self._done("-exec-continue")
        self._running = True

    def wait(self, timeout: float) -> Stop:
        if not self._running:
            raise TargetError("the machine is not running", "resume it first")
        deadline = time.monotonic() + timeout
        stop = self._await(deadline)
        owed, self._owed = self._owed, None
        if owed is None or owed in self._breakpoints or not self._stands_still(stop, owed):
            return stop
        self.resume()
        return self._await(deadline)

    def step(self) -> Stop:
        owed, self._owed = self._owed, None
        stop = self._step()
        if owed is not None and self._stands_still(stop, owed):
            stop = self._step()
        if stop.watched is not None:
            self._owed = self.read_registers().get("rip")
        return stop

    def _stands_still(self, stop: Stop, pc: int) -> bool:
        return stop.kind is StopKind.BREAKPOINT and stop.watched is None and self.read_registers().get("rip") == pc

    def _step(self) -> Stop:
        self._stopped()
        self._gdb.events.clear()
        self._registers = None
        self._done("-exec-step-instruction")
        self._running = True
        return self._await(time.monotonic() + self._timeout)

    def interrupt(self) -> Stop:
        if not self._running:
            return Stop(StopKind.INTERRUPT, 2, "already stopped")
        patience = min(self._patience(), _PARTING)
        self._gdb.command("-exec-interrupt", patience)
        return self._await(time.monotonic() + patience)

    def _await(self, deadline: float, show: Callable[[str], None] | None = None) -> Stop:
        while True:
            record = self._gdb.event(deadline, show)
            if record.get("message") == "thread-group-exited":
                self._running, self._closed = False, True
                return Stop(StopKind.EXITED, 0, "the VMM exited")
            if record.get("message") == "stopped":
                self._running = False
                return self._watched(record["payload"])

    def _watched(self, payload: dict[str, Any]) -> Stop:
        """The stop of a record, with the address of the watchpoint of ours that it names."""
        stop = stop_of_record(payload)
        named: dict[str, Any] = next(
            (payload[key] for key in ("wpt", "hw-rwpt", "hw-awpt") if isinstance(payload.get(key), dict)), {}
        )
        hit = next((one for one, number in self._watchpoints.items() if str(named.get("number")) == number), None)
        return stop if hit is None else replace(stop, watched=hit.address, watched_for=hit.access)

    def peer_command(self) -> tuple[str, ...]:
        """Nothing: GDB holds the connection, and its other end is not looked up."""
        return ()

    # --- monitor --------------------------------------------------------------------------------------------------

    def monitor(self, command: str) -> str:
        if not self._has_monitor:
            raise TargetError(f"{self.name} has no monitor", "a gdbstub of QEMU has one")
        self._stopped()
        if self._keeper is not None:
            self._keeper.before(command)
        changes = not command.startswith(("info", "o ", "i ", "xp"))
        if changes:
            self._registers = None
        text = self._console(f"monitor {command}")
        if self._keeper is not None:
            self._keeper.after(command)
        if changes:
            # GDB remembers registers and memory over a command that changed them behind its back.
            self._console("maintenance flush register-cache")
            self._flush()
        return text

    def _console(self, command: str) -> str:
        reply = self._gdb.command(f"-interpreter-exec console {quoted(command)}", self._patience())
        if reply["message"] == "error":
            raise TargetError(f"GDB refuses {command!r}: {reply['payload'].get('msg', '')}", "use QEMU's stub")
        return "".join([*reply["target"], *reply["console"], *reply["log"][1:]])

    def _patience(self) -> float:
        """A short time-out for a GDB whose stub was silent before: a clean-up must not wait for it again and again."""
        return min(self._timeout, _SHORT) if self._gdb.silent else self._timeout

    def _done(self, command: str) -> dict[str, Any]:
        reply = self._gdb.command(command, self._patience())
        if reply["message"] == "error":
            raise TargetError(
                f"GDB answers {command.split()[0]}: {reply['payload'].get('msg', 'error')}", "look at the VMM's own messages"
            )
        payload: dict[str, Any] = reply["payload"]
        return payload

    # --- lines for GDB --------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """Whether GDB and its connection still work, checked at most once a second; a running machine counts as alive."""
        if self._closed or self._running:
            return not self._closed
        if not self._gdb.poll() or any(event.get("message") == "thread-group-exited" for event in self._gdb.events):
            return False
        if time.monotonic() - self._asked < _BETWEEN:
            return True
        self._asked = time.monotonic()  # GDB does not notice by itself while the machine stands still
        return self._answers()

    @property
    def cpu(self) -> int | None:
        return None

    def gdb_alive(self) -> bool:
        """Whether GDB itself still runs."""
        return self._gdb.poll()

    def passed_on(
        self, line: str, show: Callable[[str], None], interrupted: threading.Event, watch: Callable[[], None]
    ) -> tuple[str | None, bool]:
        """Give GDB a line as typed, and wait until it is done, the machine's run included.

        Returns GDB's error in its own words (None: no error), and whether the machine ran. Raises TargetLost.
        """
        self._stopped()
        self._gdb.events.clear()
        reply = self._gdb.command(f"-interpreter-exec console {quoted(line)}", _PATIENCE, show, interrupted)
        self._registers = None
        ran = reply["message"] == "running" or any(event.get("message") == "running" for event in self._gdb.events)
        if ran:
            self._running = True
            self._wait_out(show, interrupted, watch)
        if reply["message"] == "error":
            return str(reply["payload"].get("msg", "error")), ran
        return None, ran

    def _wait_out(self, show: Callable[[str], None], interrupted: threading.Event, watch: Callable[[], None]) -> None:
        while True:
            try:
                stop = self._await(time.monotonic() + _LOOK, show)
            except TargetTimeout:
                watch()
                if interrupted.is_set():
                    interrupted.clear()
                    self._gdb.interrupt()  # a console's command blocks GDB's input until it is done
                continue
            if stop.kind is StopKind.EXITED:
                raise TargetLost(stop.text)
            return

    def let_go(self) -> None:
        """Disconnect from the stub for a while; GDB keeps its symbols, breakpoints and values. Raises TargetError."""
        self._stopped()
        for address in tuple(self._breakpoints):
            self.clear_breakpoint(address)
        for one in tuple(self._watchpoints):
            self.clear_watchpoint(one)
        self._done("-target-disconnect")

    def take_again(self) -> None:
        """Connect to the stub again after `let_go`. Raises TargetLost when it is gone."""
        self._connect()
        self._registers = None

    def words(self, line: str) -> list[str]:
        """How GDB would complete a line: whole lines, as it gives them."""
        if self._running or self._closed:
            return []
        payload = self._gdb.command(f"-complete {quoted(line)}", 1.0)["payload"]
        return [str(match) for match in payload.get("matches", [])]

    # --- leaving --------------------------------------------------------------------------------------------------

    def close(self, leave: Leave) -> bool:
        """Clear our breakpoints, leave the machine as asked, and end GDB. Never raises; False: it was not seen to end."""
        with putting_back(f"the breakpoints of the machine at {self.name}"):
            answered = ended = self._closed
            try:
                if not self._closed:
                    self._closed = True
                    answered, ended = self._leave(leave)
            finally:
                self._gdb.close()
                if self._keeper is not None:
                    self._keeper.no_gdb()
                    if answered:
                        self._keeper.put_back()
        return ended

    def _leave(self, leave: Leave) -> tuple[bool, bool]:
        """Put back each thing by itself: whether the machine answered, or is gone; and whether it ended, if it was to be killed."""
        self._timeout = min(self._timeout, _PARTING)
        breakpoints = [partial(self.clear_breakpoint, address) for address in tuple(self._breakpoints)]
        watchpoints = [partial(self.clear_watchpoint, one) for one in tuple(self._watchpoints)]
        steps: list[Callable[[], object]] = [self.interrupt, *breakpoints, *watchpoints, partial(self._let_go, leave)]
        stays = leave is not Leave.KILLED
        for step in steps:
            try:
                step()
            except TargetTimeout:
                return False, stays  # nothing more can be put back by this GDB
            except TargetLost:
                gone = self._gdb.poll()  # else it is GDB that is gone, and not the machine
                return gone, gone or stays
            except PvhdbgError:
                pass  # it refuses this one thing
        return True, stays

    def _let_go(self, leave: Leave) -> None:
        if leave is Leave.RUNNING:
            self._done("-target-detach")
        elif leave is Leave.KILLED:
            self._end()
        else:
            self._done("-target-disconnect")  # the guest stays as it is

    def _end(self) -> None:
        """End the VMM, and ask its stub until it does not answer any more: GDB does not notice by itself.

        Raises TargetLost when it has ended, TargetTimeout when it has not.
        """
        deadline = time.monotonic() + self._timeout
        self._gdb.command(f"-interpreter-exec console {quoted('monitor quit' if self._has_monitor else 'kill')}", self._timeout)
        while self._answers():
            if time.monotonic() > deadline:
                raise TargetTimeout(f"the VMM at {self.name} did not end", END_IT)
        raise TargetLost(f"{self.name} ended", "")

    def _answers(self) -> bool:
        reply = self._gdb.command('-interpreter-exec console "maintenance packet qC"', self._timeout)
        return bool(reply["message"] != "error")

    def _stopped(self) -> None:
        if self._running:
            raise TargetError("the machine is running", "interrupt it first")
