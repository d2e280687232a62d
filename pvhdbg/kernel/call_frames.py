"""A kernel's call frame tables, .eh_frame and .debug_frame: the rule for each pc (with pyelftools, which parses them).

Rules that are DWARF expressions are left out: such a function ends the chain.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import cached_property
from typing import Any

from pvhdbg.decode.frame_rule import FrameRule
from pvhdbg.decode.notes import Buffer
from pvhdbg.kernel.debug_info import FileView

_BOUND = 2 << 20  # bytes of tables: some seconds to parse; the tables of a Linux are larger, and it has ORC
_NAMES_64 = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_NAMES_32 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_RETURN = {64: 16, 32: 8}  # the number of the return address's column in the psABIs


class CallFrames:
    """The tables of one ELF; without pyelftools, or where they are damaged or too large, there are none."""

    def __init__(self, data: Buffer) -> None:
        self._data = data

    @cached_property
    def _entries(self) -> tuple[list[int], list[Any], int]:
        """The first addresses in rising order, the entries, and the width of the code."""
        try:
            from elftools.dwarf.callframe import FDE
            from elftools.elf.elffile import ELFFile

            elf = ELFFile(FileView(self._data))  # type: ignore[arg-type]
            entries = [
                one
                for name in (".eh_frame", ".debug_frame")
                for one in _parsed(elf, name)
                if isinstance(one, FDE) and one["address_range"] > 0
            ]
        except Exception:  # hostile bytes make pyelftools raise exceptions of any type
            return [], [], 64
        entries.sort(key=lambda one: one["initial_location"])
        return [one["initial_location"] for one in entries], entries, elf.elfclass

    def at(self, address: int) -> FrameRule | None:
        """The rule at a link-time address; None where no table has one that is a register and an offset."""
        starts, entries, bits = self._entries
        index = bisect_right(starts, address) - 1
        if index < 0 or address >= starts[index] + entries[index]["address_range"]:
            return None
        try:
            rows = [row for row in entries[index].get_decoded().table if row["pc"] <= address]
            return _rule(rows[-1], bits) if rows else None
        except Exception:  # as above
            return None


def _parsed(elf: Any, name: str) -> list[Any]:
    from elftools.dwarf.callframe import CallFrameInfo
    from elftools.dwarf.structs import DWARFStructs

    section = elf.get_section_by_name(name)
    if section is None or section.data_size > _BOUND or section["sh_size"] > _BOUND:
        return []
    structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=elf.elfclass // 8)
    frames = CallFrameInfo(io.BytesIO(section.data()), section.data_size, section["sh_addr"], structs, name == ".eh_frame")
    found: list[Any] = frames.get_entries()
    return found


def _rule(row: Any, bits: int) -> FrameRule | None:
    names = _NAMES_64 if bits == 64 else _NAMES_32
    cfa = row["cfa"]
    saved = {number: rule.arg for number, rule in row.items() if isinstance(number, int) and rule.type == "OFFSET"}
    back = saved.pop(_RETURN[bits], None)
    if cfa.reg is None or not 0 <= cfa.reg < len(names) or back is None:
        return None
    return FrameRule(names[cfa.reg], cfa.offset, back, {names[number]: at for number, at in saved.items() if number < len(names)})
