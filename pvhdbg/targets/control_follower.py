"""The control registers of a CPU whose stub does not show them, as they follow from each instruction that is stepped."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pvhdbg.decode.followed_control import AT_ENTRY, Control, after, may_change
from pvhdbg.errors import MemoryUnreadable

_LONGEST_CODE = 15  # bytes of one instruction


class ControlFollower:
    """`now` is None where they are not followed: the stub shows them, or the machine ran freely."""

    def __init__(self, registers: Callable[[], Mapping[str, int]], linear: Callable[[int, int], bytes]) -> None:
        self._registers = registers
        self._linear = linear
        self._plain: set[int] = set()  # pcs of instructions that do not change them
        self.now: Control | None = None

    def start(self) -> None:
        """The machine stands at a PVH entry."""
        self.now = AT_ENTRY

    def lose(self) -> None:
        """The machine is about to run freely."""
        self.now = None
        self._plain.clear()

    def after(self, pc: int) -> Control | None:
        """What they will be after the instruction at `pc`, the next one; None where they are not followed."""
        if self.now is None or pc in self._plain:
            return self.now
        try:
            code = self._linear(pc, _LONGEST_CODE)
            if not may_change(self.now, code):
                self._plain.add(pc)
                return self.now
            return after(self.now, code, self._registers, self._linear)
        except MemoryUnreadable:
            return None
