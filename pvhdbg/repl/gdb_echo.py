"""A target that records the equivalent GDB commands of its operations: `--show-gdb`."""

from __future__ import annotations

from pvhdbg.errors import TargetError
from pvhdbg.model import Registers
from pvhdbg.rsp.registers import RegisterLayout
from pvhdbg.targets.target import (
    Capabilities,
    Leave,
    Steppable,
    Stop,
    Target,
    WatchKind,
    Watchpoint,
    steppable,
    unwinding,
    watching,
)

_WATCH = {WatchKind.WRITE: "watch", WatchKind.READ: "rwatch", WatchKind.ANY: "awatch"}
_MOST = 24  # GDB commands that are shown for one command


class GdbEcho:
    """A `Target` around another one. `told()` returns the GDB commands since its last call."""

    def __init__(self, target: Target) -> None:
        self.inner = target
        self._commands: list[str] = []
        self._more = 0

    def told(self) -> list[str]:
        """Each command once, and the number of those beyond a screenful."""
        found, more = self._commands, self._more
        self._commands, self._more = [], 0
        return [*found, f"and {more} more"] if more else found

    def _tell(self, command: str) -> None:
        if command in self._commands:
            return
        if len(self._commands) < _MOST:
            self._commands.append(command)
        else:
            self._more += 1

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def via(self) -> str:
        return self.inner.via

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    def alive(self) -> bool:
        return self.inner.alive()

    @property
    def cpu(self) -> int | None:
        return self.inner.cpu

    def read_registers(self) -> Registers:
        self._tell("info registers")
        return self.inner.read_registers()

    def frames(self, most: int) -> tuple[int, ...]:
        self._tell(f"backtrace {most}")
        found = unwinding(self.inner)
        return () if found is None else found.frames(most)

    def write_register(self, name: str, value: int) -> None:
        self._tell(f"set ${name} = {value:#x}")
        self.inner.write_register(name, value)

    def read_memory(self, address: int, size: int) -> bytes:
        self._tell(f"monitor xp /{size}bx {address:#x}")
        return self.inner.read_memory(address, size)

    def write_memory(self, address: int, data: bytes) -> None:
        self._tell(f"maintenance packet M{address:x},{len(data):x}:…")
        self.inner.write_memory(address, data)

    def set_breakpoint(self, address: int) -> None:
        self._tell(f"hbreak *{address:#x}")
        self.inner.set_breakpoint(address)

    def clear_breakpoint(self, address: int) -> None:
        self._tell(f"clear *{address:#x}")
        self.inner.clear_breakpoint(address)

    def set_watchpoint(self, one: Watchpoint) -> bool:
        self._tell(f"{_WATCH[one.access]} *(unsigned char(*)[{one.size}]){one.address:#x}")
        inner = watching(self.inner)
        return inner is not None and inner.set_watchpoint(one)

    def clear_watchpoint(self, one: Watchpoint) -> None:
        inner = watching(self.inner)
        if inner is not None:
            inner.clear_watchpoint(one)

    def resume(self) -> None:
        self._tell("continue")
        self.inner.resume()

    def wait(self, timeout: float) -> Stop:
        return self.inner.wait(timeout)

    def step(self) -> Stop:
        self._tell("stepi")
        return self.inner.step()

    def interrupt(self) -> Stop:
        self._tell("interrupt")
        return self.inner.interrupt()

    def monitor(self, command: str) -> str:
        self._tell(f"monitor {command}")
        return self.inner.monitor(command)

    def peer_command(self) -> tuple[str, ...]:
        return self.inner.peer_command()

    def close(self, leave: Leave) -> bool:
        return self.inner.close(leave)

    # --- with `capabilities.packets`: what a trace does many times a second is not told -------------------------------

    def _packets(self) -> Steppable:
        found = steppable(self.inner)
        if found is None:
            raise TargetError(f"{self.name} does not hand out packets", "trace with --engine log")
        return found

    def follow(self, cpu: int | None) -> None:
        self._packets().follow(cpu)

    @property
    def layout(self) -> RegisterLayout:
        return self._packets().layout

    def packet(self) -> bytes:
        return self._packets().packet()

    def step_packet(self, pc: int, ahead: tuple[int, int] | None = None) -> tuple[Stop, bytes, bytes]:
        return self._packets().step_packet(pc, ahead)

    def read_linear(self, address: int, size: int) -> bytes:
        return self._packets().read_linear(address, size)
