"""`CoreTarget`: an ELF core in place of a machine. Memory is read from the file on demand."""

from __future__ import annotations

from pvhdbg.decode.core_file import Core
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Registers, Segments
from pvhdbg.targets.recorded import RecordedTarget


class CoreTarget(RecordedTarget):
    """A `Target` that replays a core."""

    via = "core"

    def __init__(self, core: Core, name: str) -> None:
        super().__init__(core.snapshot, name, "core")
        self._core = core

    @property
    def others(self) -> tuple[tuple[Registers, Segments], ...]:
        """Registers and segments of each CPU but the first."""
        return self._core.others

    @property
    def long_mode(self) -> bool | None:
        """EFER.LMA of the first CPU; None where the core does not show it."""
        return self._core.long_mode

    def read_memory(self, address: int, size: int) -> bytes:
        data = self._core.memory.read(address, size)
        if data is None:
            raise MemoryUnreadable(address, size, "it is not in the core", looked=False)
        return data
