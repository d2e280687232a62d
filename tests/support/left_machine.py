"""How a session left a machine that somebody else started: asked over the stub without what would clear it away (`?` does)."""

import os
import time
from dataclasses import dataclass

from pvhdbg.errors import TargetError, TargetTimeout
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.wire import Wire

_SOME = 3  # clock ticks of 10 ms, which a machine that stands still does not take in two seconds


@dataclass(frozen=True)
class Left:
    """What was found. `running` is whether the guest ran before we looked, told by the time that its QEMU spends on it."""

    running: bool
    single: bool  # in one-instruction mode
    stops: bool  # a breakpoint was hit when it was let run
    logs: bool  # QEMU writes a log into a FIFO without a reader


def busy(pid: int, seconds: float = 2.0) -> bool:
    """Whether a process that runs an endless loop for its guest spends time on that; a loaded machine gives it little."""
    before, deadline = _ticks(pid), time.monotonic() + seconds
    while _ticks(pid) - before < _SOME:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def look(pid: int, socket: str) -> Left:
    """Look at a machine whose guest loops; it is let run again afterwards."""
    running = busy(pid)
    wire = Wire(StubAddress(path=socket), 5, lambda _: None)
    try:
        wire.greet(b"qSupported:multiprocess+", 5)
        wire.request(b"Hg0")
        said = _monitor(wire, "info status") + _monitor(wire, "info jit")
        wire.stops.clear()
        wire.send(b"c")
        try:
            stops = wire.receive(time.monotonic() + 0.2).startswith((b"T05", b"S05"))
        except TargetTimeout:
            stops = False
            wire.interrupt()
            wire.receive(time.monotonic() + 5)
        wire.request(b"D;1")
    finally:
        wire.close()
    single = "single step mode" in said or "one-insn-per-tb: on" in said
    return Left(running, single, stops, any(_is_log(pid, name) for name in os.listdir(f"/proc/{pid}/fd")))


def _is_log(pid: int, name: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}").endswith("/log (deleted)")
    except OSError:
        return False


def _monitor(wire: Wire, command: str) -> str:
    wire.send(b"qRcmd," + command.encode().hex().encode())
    said = ""
    while (reply := wire.receive(time.monotonic() + 5)) != b"OK":
        if reply.startswith(b"O"):
            said += bytes.fromhex(reply[1:].decode()).decode("utf-8", "replace")
        elif not reply.startswith(b"T"):
            raise TargetError(f"the monitor answers {reply!r}")
    wire.answered()
    return said
