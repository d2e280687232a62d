"""`RecordedTarget`: a saved snapshot in place of a machine. Observed data can be read; nothing can be run."""

from __future__ import annotations

from pvhdbg.decode.snapshot_file import FILE_BOUND, decode
from pvhdbg.errors import BadSnapshot, MemoryUnreadable, TargetError
from pvhdbg.model import NeedMemory, Registers, Snapshot, Unavailable
from pvhdbg.targets.target import Capabilities, Leave, Stop

_TODO = "boot it again: pvhdbg run KERNEL, or pvhdbg attach TARGET"


class RecordedTarget:
    """A `Target` that replays a Snapshot."""

    via = "snapshot"

    def __init__(self, snapshot: Snapshot, name: str = "snapshot", kind: str = "snapshot") -> None:
        self.snapshot = snapshot
        self._name = name
        self._kind = kind

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(monitor=False, control=False, write=False)

    def read_registers(self) -> Registers:
        return self.snapshot.registers

    def read_memory(self, address: int, size: int) -> bytes:
        try:
            return self.snapshot.memory.read(address, size)
        except NeedMemory:
            raise MemoryUnreadable(address, size, f"it is not in the {self._kind}", looked=False) from None
        except Unavailable as gap:
            raise MemoryUnreadable(address, size, gap.reason) from None

    def _cannot(self) -> TargetError:
        return TargetError(f"{self._name} is a {self._kind}: it cannot be run or changed", _TODO)

    def write_register(self, name: str, value: int) -> None:
        raise self._cannot()

    def write_memory(self, address: int, data: bytes) -> None:
        raise self._cannot()

    def set_breakpoint(self, address: int) -> None:
        raise self._cannot()

    def clear_breakpoint(self, address: int) -> None:
        raise self._cannot()

    def resume(self) -> None:
        raise self._cannot()

    def wait(self, timeout: float) -> Stop:
        raise self._cannot()

    def step(self) -> Stop:
        raise self._cannot()

    def interrupt(self) -> Stop:
        raise self._cannot()

    def monitor(self, command: str) -> str:
        raise self._cannot()

    def peer_command(self) -> tuple[str, ...]:
        return ()

    def alive(self) -> bool:
        return True

    @property
    def cpu(self) -> int | None:
        return None

    def close(self, leave: Leave) -> bool:
        return True


def open_snapshot(path: str) -> RecordedTarget:
    """The machine in a `.pvhsnap` file. Raises BadSnapshot."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_BOUND + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSnapshot(f"{path} cannot be read: {error}", "give a file that `pvhdbg snapshot save` wrote") from error
    return RecordedTarget(decode(text), path)
