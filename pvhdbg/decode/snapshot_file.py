"""The `.pvhsnap` file: one JSON document of schema `pvhdbg/snapshot/1`. Reading it back gives the same Snapshot.

Memory is zlib-compressed and base64-coded. The file is not trusted: sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pvhdbg.errors import BadSnapshot
from pvhdbg.model import (
    Backing,
    BackingKind,
    DescriptorTable,
    EntryPoint,
    FoundBy,
    ImageComparison,
    ImageDifference,
    Kernel,
    LoadRange,
    Memory,
    MemoryHole,
    MemoryPiece,
    Registers,
    Segment,
    Segments,
    Snapshot,
    Vmm,
)

SCHEMA = "pvhdbg/snapshot/1"
MEMORY_BOUND = 64 << 20  # bytes of guest memory in one file
FILE_BOUND = 96 << 20  # base64 of all that memory, and some more
_ITEMS = 1 << 16
_VALUES = 1 << 20  # in all: Python takes up to 64 bytes for one that the file has in three
_ARGUMENT = 1 << 18  # characters; Linux allows 128 KiB

_NUMBER = re.compile("0x[0-9a-fA-F]{1,16}")

T = TypeVar("T")


def encode(snapshot: Snapshot) -> str:
    """The file's text."""
    kernel = snapshot.kernel
    document = {
        "schema": SCHEMA,
        "captured": snapshot.captured,
        "sources": dict(snapshot.sources),
        "vmm": {
            "name": snapshot.vmm.name,
            "version": snapshot.vmm.version,
            "accelerator": snapshot.vmm.accelerator,
            "command": None if snapshot.vmm.command is None else list(snapshot.vmm.command),
        },
        "entry": {
            "address": _hex(snapshot.entry.address),
            "found_by": snapshot.entry.found_by.value,
            "symbol": snapshot.entry.symbol,
        },
        "kernel": None
        if kernel is None
        else {
            "path": kernel.path,
            "build_id": kernel.build_id,
            "sha256": kernel.sha256,
            "size": kernel.size,
            "entry": _hex(kernel.entry),
            "relocatable": kernel.relocatable,
            "loads": [[_hex(load.start), _hex(load.size)] for load in kernel.loads],
            "source": kernel.source,
            "elf_class": kernel.elf_class,
        },
        "image": None if snapshot.image is None else _image_document(snapshot.image),
        "registers": {name: _hex(snapshot.registers.values[name]) for name in snapshot.registers},
        "registers_missing": snapshot.registers.missing,
        "segments": {
            name: {
                "selector": _hex(one.selector),
                "base": _hex(one.base),
                "limit": _hex(one.limit),
                "flags": _hex(one.flags),
                "missing": one.missing,
            }
            for name, one in snapshot.segments.by_name.items()
        },
        "segments_missing": snapshot.segments.missing,
        "gdt": _table(snapshot.segments.gdt),
        "idt": _table(snapshot.segments.idt),
        "a20": snapshot.a20,
        "backing": None
        if snapshot.backing is None
        else [[_hex(area.start), _hex(area.size), area.kind.value, area.name] for area in snapshot.backing],
        "memory": [
            {
                "address": _hex(piece.address),
                "size": len(piece.data),
                "zlib": base64.b64encode(zlib.compress(piece.data, 6)).decode("ascii"),
            }
            for piece in snapshot.memory.pieces
        ],
        "holes": [
            [_hex(hole.address), _hex(hole.size), hole.reason, *([] if hole.looked else [False])] for hole in snapshot.memory.holes
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _image_document(image: ImageComparison) -> dict[str, Any]:
    return {
        "compared": image.compared,
        "size": image.size,
        "zeros": image.zeros,
        "zero_size": image.zero_size,
        "differences": [[_hex(one.address), _hex(one.expected), _hex(one.found), one.zeros] for one in image.differences],
        "another": image.another,
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


def _table(table: DescriptorTable | None) -> list[str] | None:
    return None if table is None else [f"{table.base:#x}", f"{table.limit:#x}"]


def decode(text: str) -> Snapshot:
    """The Snapshot that `encode` wrote. Raises BadSnapshot with the place in the file for anything else."""
    if len(text) > FILE_BOUND:
        raise BadSnapshot(f"the snapshot is larger than {FILE_BOUND >> 20} MiB", "make a new one")
    if sum(map(text.count, ",[{")) > _VALUES:
        raise BadSnapshot(f"the snapshot has more than {_VALUES} values", "make a new one")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSnapshot(f"the snapshot is not JSON: {error}", "it may be truncated: make a new one") from error
    reader = _Reader(document)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, str) and schema.startswith("pvhdbg/snapshot/")
        raise BadSnapshot(
            f"the file's schema is {schema!r:.60}, not {SCHEMA}",
            "read it with a newer pvhdbg" if newer else "give a file that `pvhdbg snapshot save` wrote",
        )
    return Snapshot(
        registers=Registers(reader.mapping("registers", _Reader.number), reader.text("registers_missing") or ""),
        segments=Segments(
            reader.mapping("segments", _segment),
            reader.optional("gdt", _descriptor_table),
            reader.optional("idt", _descriptor_table),
            reader.text("segments_missing") or "",
        ),
        a20=reader.boolean("a20"),
        memory=_memory(reader),
        backing=None if document.get("backing") is None else tuple(reader.rows("backing", _backing)),
        vmm=reader.optional("vmm", _vmm) or Vmm(),
        kernel=reader.optional("kernel", _kernel),
        image=reader.optional("image", _image),  # files of older versions have none
        entry=reader.optional("entry", lambda r: EntryPoint(r.hex("address"), r.found_by(), r.text("symbol")))
        or EntryPoint(None, FoundBy.HERE),
        sources=reader.mapping("sources", _Reader.word),
        captured=reader.text("captured"),
    )


class _Reader:
    """One JSON value of the file with its path, so that every error names the place."""

    def __init__(self, value: Any, path: str = "") -> None:
        self.value = value
        self.path = path

    def fail(self, wanted: str) -> BadSnapshot:
        return BadSnapshot(f"the snapshot is damaged: {self.path or 'it'} is not {wanted}", "make a new one")

    def child(self, name: str) -> _Reader:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return _Reader(self.value.get(name), f"{self.path}.{name}".lstrip("."))

    def at(self, index: int, read: Callable[[Any], T]) -> T:
        if not isinstance(self.value, list) or index >= len(self.value):
            raise self.fail("a row of the right length")
        return read(_Reader(self.value[index], f"{self.path}[{index}]"))

    @staticmethod
    def number(one: Any) -> int:
        value = one.value
        if not isinstance(value, str) or _NUMBER.fullmatch(value) is None:  # int() alone would take signs and underscores
            raise one.fail("a hexadecimal string of at most 64 bits")
        return int(value, 16)

    @staticmethod
    def word(one: Any) -> str:
        if not isinstance(one.value, str) or len(one.value) > _ITEMS:
            raise one.fail("a string")
        return str(one.value)

    def hex(self, name: str) -> int | None:
        one = self.child(name)
        return None if one.value is None else self.number(one)

    def text(self, name: str) -> str | None:
        one = self.child(name)
        return None if one.value is None else self.word(one)

    def found_by(self) -> FoundBy:
        found = self.text("found_by") or FoundBy.HERE.value
        try:
            return FoundBy(found)
        except ValueError:
            raise self.child("found_by").fail(f"one of {', '.join(one.value for one in FoundBy)}") from None

    def boolean(self, name: str) -> bool | None:
        one = self.child(name)
        if one.value is not None and not isinstance(one.value, bool):
            raise one.fail("true, false or null")
        return one.value

    def count(self, name: str) -> int | None:
        one = self.child(name)
        if one.value is None:
            return None
        if not isinstance(one.value, int) or isinstance(one.value, bool) or not 0 <= one.value < 1 << 64:
            raise one.fail("a number")
        return one.value

    def optional(self, name: str, read: Callable[[_Reader], T]) -> T | None:
        one = self.child(name)
        return None if one.value is None else read(one)

    def mapping(self, name: str, read: Callable[[Any], T]) -> Mapping[str, T]:
        one = self.child(name)
        if not isinstance(one.value, dict) or len(one.value) > _ITEMS:
            raise one.fail("an object")
        return {key: read(_Reader(value, f"{one.path}.{key:.40}")) for key, value in one.value.items()}

    def rows(self, name: str, read: Callable[[_Reader], T]) -> list[T]:
        one = self.child(name)
        if not isinstance(one.value, list) or len(one.value) > _ITEMS:
            raise one.fail("a list")
        return [read(_Reader(value, f"{one.path}[{index}]")) for index, value in enumerate(one.value)]


def _segment(one: _Reader) -> Segment:
    return Segment(one.hex("selector"), one.hex("base"), one.hex("limit"), one.hex("flags"), one.text("missing") or "")


def _backing(row: _Reader) -> Backing:
    return Backing(row.at(0, row.number), row.at(1, row.number), BackingKind.named(row.at(2, row.word)), row.at(3, row.word))


def _descriptor_table(one: _Reader) -> DescriptorTable:
    return DescriptorTable(one.at(0, one.number), one.at(1, one.number))


def _argument(one: _Reader) -> str:
    if not isinstance(one.value, str) or len(one.value) > _ARGUMENT:
        raise one.fail("a string")
    return one.value


def _vmm(one: _Reader) -> Vmm:
    command = one.child("command")  # files of older versions have none
    words = None if command.value is None else tuple(one.rows("command", _argument))
    return Vmm(one.text("name"), one.text("version"), one.text("accelerator"), words)


def _kernel(one: _Reader) -> Kernel:
    return Kernel(
        path=one.text("path"),
        build_id=one.text("build_id"),
        sha256=one.text("sha256"),
        size=one.count("size"),
        entry=one.hex("entry"),
        relocatable=bool(one.boolean("relocatable")),
        loads=tuple(one.rows("loads", lambda row: LoadRange(row.at(0, row.number), row.at(1, row.number)))),
        source=one.text("source") or "ELF file",
        elf_class=one.count("elf_class"),
    )


def _image(one: _Reader) -> ImageComparison:
    return ImageComparison(
        one.count("compared") or 0,
        one.count("size") or 0,
        one.count("zeros") or 0,
        one.count("zero_size") or 0,
        tuple(one.rows("differences", _difference)),
        bool(one.boolean("another")),
    )


def _difference(row: _Reader) -> ImageDifference:
    return ImageDifference(row.at(0, row.number), row.at(1, row.number), row.at(2, row.number), row.at(3, _truth))


def _memory(reader: _Reader) -> Memory:
    budget = MEMORY_BOUND
    pieces = []
    for index, (address, size, packed) in enumerate(
        reader.rows("memory", lambda row: (row.hex("address"), row.count("size"), row.child("zlib").value))
    ):
        place = _Reader(None, f"memory[{index}]")
        if address is None or size is None or not isinstance(packed, str):  # any length up to the file's bound
            raise place.fail("an address, a size and data")
        budget -= size
        if budget < 0:
            raise BadSnapshot(f"the snapshot holds more than {MEMORY_BOUND >> 20} MiB of memory", "make a new one")
        pieces.append(MemoryPiece(address, _unpack(packed, size, place)))
    holes = reader.rows("holes", _hole)
    return Memory(pieces, holes)


def _hole(row: _Reader) -> MemoryHole:
    marked = isinstance(row.value, list) and len(row.value) > 3  # older files have three columns: those holes were looked at
    return MemoryHole(row.at(0, row.number), row.at(1, row.number), row.at(2, row.word), not marked or row.at(3, _truth))


def _truth(one: _Reader) -> bool:
    if not isinstance(one.value, bool):
        raise one.fail("true or false")
    return one.value


def _unpack(packed: str, size: int, place: _Reader) -> bytes:
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error):
        raise place.fail("zlib data in base64") from None
    if len(data) != size or not inflater.eof:
        raise place.fail(f"{size} bytes when unpacked")
    return data
