"""`CoreTarget`: an ELF core in place of a machine. Memory is read from the file on demand."""

from __future__ import annotations

from pvhdbg.decode.core_file import Core
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.targets.recorded import RecordedTarget


class CoreTarget(RecordedTarget):
    """A `Target` that replays a core."""

    via = "core"

    def __init__(self, core: Core, name: str) -> None:
        super().__init__(core.snapshot, name, "core")
        self._core = core

    def read_memory(self, address: int, size: int) -> bytes:
        data = self._core.memory.read(address, size)
        if data is None:
            raise MemoryUnreadable(address, size, "it is not in the core", looked=False)
        return data
