"""What a kernel's DWARF says: the source line of an address, and the layout of a structure (read by pyelftools).

Debug info of a whole kernel has hundreds of MB. A line is found through .debug_aranges or the ranges of the compile units; a
structure by parsing only the units whose bytes mention its name. A damaged file raises BadInput, whatever pyelftools makes of it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pvhdbg.decode.notes import Buffer
from pvhdbg.errors import BadInput

_DEPTH = 16  # typedefs, qualifiers and pointers that are followed to name a type
_TAGS = ("DW_TAG_structure_type", "DW_TAG_union_type")


@dataclass(frozen=True)
class Member:
    """One member of a structure: its offset and size in bytes (None where DWARF does not say), and its type in C's words."""

    name: str
    offset: int
    size: int | None
    type: str


@dataclass(frozen=True)
class Layout:
    """A structure or union as the compiler laid it out."""

    name: str
    size: int
    members: tuple[Member, ...]


class DebugInfo:
    """The debug info of one ELF. False where it has none."""

    def __init__(self, data: Buffer) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        try:
            elf = ELFFile(_View(data))  # type: ignore[arg-type]
            self._dwarf: Any = elf.get_dwarf_info(relocate_dwarf_sections=False) if elf.has_dwarf_info() else None
        except (ELFError, ValueError, KeyError, IndexError, OverflowError, TypeError, AttributeError) as error:
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
        except Exception as error:  # pyelftools raises whatever its parsers meet in hostile bytes
            raise _damaged(error) from error

    def structure(self, name: str) -> Layout | None:
        """The layout of `struct name` (or union), or None. Raises BadInput for damaged debug info."""
        if not self:
            return None
        try:
            for unit in self._units_that_mention(name):
                for entry in unit.iter_DIEs():
                    if entry.tag in _TAGS and _name(entry) == name and "DW_AT_byte_size" in entry.attributes:
                        return _layout(entry, name)
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
        """The compile units that can hold the name: by its offset in .debug_str, or inline; all, where names are indexed."""
        wanted = name.encode("utf-8", "surrogateescape") + b"\0"
        strings = self._dwarf.debug_str_sec
        text = strings.stream.getvalue() if strings is not None and hasattr(strings.stream, "getvalue") else b""
        places: list[bytes] = []
        at = -1
        while (at := text.find(wanted, at + 1)) >= 0 and len(places) < 64:
            if at == 0 or text[at - 1] == 0:
                places.append(at.to_bytes(4, "little"))
        info = self._dwarf.debug_info_sec.stream.getvalue()
        for unit in self._dwarf.iter_CUs():
            end = unit.cu_offset + unit.size
            indexed = unit["version"] >= 5 and self._dwarf.debug_str_offsets_sec is not None
            if indexed or any(info.find(one, unit.cu_offset, end) >= 0 for one in (*places, wanted)):
                yield unit


class _View(io.RawIOBase):
    """A buffer as the file that pyelftools wants, without a copy of it."""

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


def _damaged(error: Exception) -> BadInput:
    detail = str(error).split("\n")[0] or type(error).__name__
    return BadInput(f"the debug info is damaged: {detail}", "build the kernel again, or strip its debug info")


def _name(entry: Any) -> str:
    attribute = entry.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "backslashreplace") if attribute is not None else ""


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


def _layout(entry: Any, name: str) -> Layout:
    members = []
    for child in entry.iter_children():
        if child.tag == "DW_TAG_member":
            at = child.attributes.get("DW_AT_data_member_location")
            offset = at.value if at is not None and isinstance(at.value, int) else 0
            target = _type(child)
            members.append(Member(_name(child) or "(unnamed)", offset, _size(target), _spelled(target)))
    return Layout(name, entry.attributes["DW_AT_byte_size"].value, tuple(members))


def _type(entry: Any) -> Any:
    return entry.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in entry.attributes else None


def _size(entry: Any) -> int | None:
    for _ in range(_DEPTH):
        if entry is None:
            return None
        if entry.tag == "DW_TAG_array_type":
            one, count = _size(_type(entry)), _count(entry)
            return None if one is None or count is None else one * count
        if "DW_AT_byte_size" in entry.attributes:
            return int(entry.attributes["DW_AT_byte_size"].value)
        entry = _type(entry)
    return None


def _count(array: Any) -> int | None:
    for child in array.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            if "DW_AT_count" in child.attributes:
                return int(child.attributes["DW_AT_count"].value)
            upper = child.attributes.get("DW_AT_upper_bound")
            return int(upper.value) + 1 if upper is not None and isinstance(upper.value, int) else None
    return None


def _spelled(entry: Any, depth: int = 0) -> str:
    if entry is None or depth == _DEPTH:
        return "void"
    if entry.tag == "DW_TAG_const_type" and (target := _type(entry)) is not None and target.tag == "DW_TAG_array_type":
        return _spelled(target, depth + 1)  # its elements say it again
    inner = {"DW_TAG_pointer_type": "{} *", "DW_TAG_const_type": "const {}", "DW_TAG_volatile_type": "volatile {}"}
    if entry.tag in inner:
        return inner[entry.tag].format(_spelled(_type(entry), depth + 1))
    if entry.tag == "DW_TAG_array_type":
        count = _count(entry)
        return f"{_spelled(_type(entry), depth + 1)}[{'' if count is None else count}]"
    if entry.tag == "DW_TAG_subroutine_type":
        return "function"
    kind = {"DW_TAG_structure_type": "struct ", "DW_TAG_union_type": "union ", "DW_TAG_enumeration_type": "enum "}
    return kind.get(entry.tag, "") + (_name(entry) or "(unnamed)")
