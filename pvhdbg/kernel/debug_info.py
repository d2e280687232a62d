"""Read a kernel's DWARF: the source line of an address, and the layout of a structure (with pyelftools).

The debug info of a whole kernel has hundreds of MB. A line is found through .debug_aranges or the ranges of the compile units; a
structure by parsing only the units whose bytes mention its name. A damaged file raises BadInput for every error of pyelftools.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from pvhdbg.decode.notes import Buffer
from pvhdbg.errors import BadInput
from pvhdbg.kernel.debug_types import KINDS, Layout, entry_name, layout

_SECTIONS_BOUND = 1 << 30  # bytes of debug info, unpacked: the largest kernels have about 500 MB
_PACKED_BOUND = 200 << 20  # of that, bytes that are packed in the file: unpacking takes twice as much
_RATIO_BOUND = 64  # zlib makes DWARF four times smaller; a bomb is a thousand times smaller
_SMALL = 1 << 20  # bytes for which no ratio is asked
_ROWS_BOUND = 20_000_000  # of line tables; a whole kernel has 5 million
_PLACES_BOUND = 64  # places of a name among the strings; if there are more, all units are searched

QUICK = 48 << 20  # bytes of a file whose debug info is read in a moment; a whole Linux has ten times as many


class DebugInfo:
    """The debug info of one ELF. False if it has none."""

    def __init__(self, data: Buffer) -> None:
        try:
            from elftools.elf.elffile import ELFFile
        except ImportError:  # in GDB's own Python
            raise BadInput("debug info cannot be read here, without pyelftools", "ask from a shell: pvhdbg elf FILE") from None
        try:
            elf = ELFFile(FileView(data))  # type: ignore[arg-type]
            _bounded(elf, len(data))
            self._dwarf: Any = elf.get_dwarf_info(relocate_dwarf_sections=False) if elf.has_dwarf_info() else None
        except BadInput:
            raise
        except Exception as error:  # hostile bytes make pyelftools raise exceptions of any type
            raise _damaged(error) from error

    def __bool__(self) -> bool:
        return self._dwarf is not None and self._dwarf.debug_info_sec is not None

    def line(self, address: int) -> str | None:
        """`file:line` of a link-time address, or None. Raises BadInput for damaged debug info."""
        if not self:
            return None
        try:
            unit = self._unit_at(address)
            return None if unit is None else self._line_in(unit, address)
        except BadInput:
            raise
        except Exception as error:  # as above
            raise _damaged(error) from error

    def lines(self) -> Iterator[tuple[int, int, str, int]]:
        """All rows of the line tables: first address, the one behind the last, file, line. Raises BadInput for damaged debug info."""
        if not self:
            return
        rows = 0
        try:
            for unit in self._dwarf.iter_CUs():
                program = self._dwarf.line_program_for_CU(unit)
                before = None
                for entry in program.get_entries() if program is not None else ():
                    state = entry.state
                    if state is None:
                        continue
                    if before is not None and before.address < state.address and before.line:
                        rows += 1
                        if rows > _ROWS_BOUND:
                            raise BadInput(f"its line tables have more than {_ROWS_BOUND:,} rows", "export drcov instead")
                        yield before.address, state.address, _file(program, before.file), before.line
                    before = None if state.end_sequence else state
        except BadInput:
            raise
        except Exception as error:  # as above
            raise _damaged(error) from error

    def structure(self, name: str) -> Layout | None:
        """The layout of `struct name` (or union), or None. Raises BadInput for damaged debug info."""
        if not self:
            return None
        try:
            for unit in self._units_that_mention(name):
                for entry in unit.iter_DIEs():
                    if entry.tag in KINDS and entry_name(entry) == name and "DW_AT_byte_size" in entry.attributes:
                        return layout(entry, name)
        except BadInput:
            raise
        except Exception as error:  # as above
            raise _damaged(error) from error
        return None

    def _unit_at(self, address: int) -> Any:
        ranges = self._dwarf.get_aranges()
        offset = None if ranges is None else ranges.cu_offset_at_addr(address)
        if offset is not None:
            return self._dwarf.get_CU_at(offset)
        for unit in self._dwarf.iter_CUs():
            top = unit.get_top_DIE()
            if any(low <= address < high for low, high in self._ranges(unit, top)):
                return unit
        return None

    def _ranges(self, unit: Any, top: Any) -> Iterator[tuple[int, int]]:
        low, high = top.attributes.get("DW_AT_low_pc"), top.attributes.get("DW_AT_high_pc")
        if low is not None and high is not None:
            yield low.value, high.value if high.form == "DW_FORM_addr" else low.value + high.value
        elif "DW_AT_ranges" in top.attributes:
            base = low.value if low is not None else 0
            lists = self._dwarf.range_lists()
            for one in lists.get_range_list_at_offset(top.attributes["DW_AT_ranges"].value, unit) if lists else ():
                if hasattr(one, "base_address"):
                    base = one.base_address
                elif getattr(one, "is_absolute", False):
                    yield one.begin_offset, one.end_offset
                else:
                    yield base + one.begin_offset, base + one.end_offset

    def _line_in(self, unit: Any, address: int) -> str | None:
        program = self._dwarf.line_program_for_CU(unit)
        if program is None:
            return None
        before = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if before is not None and before.address <= address < state.address:
                return f"{_file(program, before.file)}:{before.line}"
            before = None if state.end_sequence else state
        return None

    def _units_that_mention(self, name: str) -> Iterator[Any]:
        """The units that may hold the name, by its offset in .debug_str or inline; all units if that is not known.

        Linkers merge a name into the tail of another, so every place of its bytes is a candidate.
        """
        wanted = name.encode("utf-8", "surrogateescape") + b"\0"
        strings = self._dwarf.debug_str_sec
        text = strings.stream.getvalue() if strings is not None and hasattr(strings.stream, "getvalue") else b""
        places: list[bytes] = []
        at = -1
        while (at := text.find(wanted, at + 1)) >= 0 and len(places) <= _PLACES_BOUND:
            places.append(at.to_bytes(4, "little"))
        many = len(places) > _PLACES_BOUND
        info = self._dwarf.debug_info_sec.stream.getvalue()
        for unit in self._dwarf.iter_CUs():
            end = unit.cu_offset + unit.size
            indexed = unit["version"] >= 5 and self._dwarf.debug_str_offsets_sec is not None
            if many or indexed or any(info.find(one, unit.cu_offset, end) >= 0 for one in (*places, wanted)):
                yield unit
        if self._dwarf.debug_types_sec is not None:  # DWARF 4's type units
            yield from self._dwarf.iter_TUs()

    @property
    def is_elsewhere(self) -> bool:
        """Whether the file has only a skeleton, and .dwo files hold the debug info (-gsplit-dwarf)."""
        try:
            top = next(self._dwarf.iter_CUs()).get_top_DIE() if self else None
        except BadInput:
            raise
        except Exception as error:  # as above
            raise _damaged(error) from error
        return top is not None and bool({"DW_AT_dwo_name", "DW_AT_GNU_dwo_name"} & top.attributes.keys())


class FileView(io.RawIOBase):
    """A buffer as a file object for pyelftools, without a copy."""

    def __init__(self, data: Buffer) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, len(self._data))[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._at + size
        piece = bytes(self._data[self._at : end])
        self._at += len(piece)
        return piece


def _bounded(elf: Any, size: int) -> None:
    """Raise BadInput for sections that are larger, unpacked, than those of any kernel: pyelftools does not check sizes."""
    whole = packed = 0
    for section in elf.iter_sections():
        if section.name.startswith(".zdebug"):
            raise BadInput(
                f"its debug info is compressed in the old format, {section.name}", "unpack it: objcopy --decompress-debug-sections"
            )
        if section.name.startswith((".debug", ".eh_frame", ".gnu_debug")):
            whole += section.data_size
            if section.compressed:
                packed += section.data_size
                if packed > _PACKED_BOUND or section.data_size > section["sh_size"] * _RATIO_BOUND + _SMALL:
                    what = f"{section.name} unpacks from {section['sh_size']} to {section.data_size} bytes"
                    raise BadInput(
                        f"its debug info is packed too tightly: {what}", "unpack it: objcopy --decompress-debug-sections"
                    )
            if whole > _SECTIONS_BOUND or (not section.compressed and section["sh_offset"] + section["sh_size"] > size):
                what = f"section {section.name} says {section.data_size:#x} bytes at file offset {section['sh_offset']:#x}"
                raise BadInput(f"the debug info is damaged: {what}, the file has {size:#x}", _NEXT)


_NEXT = "build the kernel again, or strip its debug info"


def _damaged(error: Exception) -> BadInput:
    detail = str(error).split("\n")[0] or type(error).__name__
    return BadInput(f"the debug info is damaged: {detail}", _NEXT)


def _file(program: Any, index: int) -> str:
    files, version = program["file_entry"], program["version"]
    number = index if version >= 5 else index - 1
    if not 0 <= number < len(files):
        return "?"
    one = files[number]
    folders = program["include_directory"]
    place = one.dir_index if version >= 5 else one.dir_index - 1
    folder = folders[place] if 0 <= place < len(folders) else b""
    name = one.name.decode("utf-8", "backslashreplace")
    folder = folder.decode("utf-8", "backslashreplace")
    return name if name.startswith("/") or not folder else f"{folder}/{name}"
