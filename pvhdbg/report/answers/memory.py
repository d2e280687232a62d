"""The answers about memory, code and symbols."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.decode.page_map import MappedRange
from pvhdbg.decode.paging import Level
from pvhdbg.model import Hex
from pvhdbg.report.answers.declare import answer


class LogMessage(NamedTuple):
    """One message of Linux' log buffer: seconds of the kernel's clock, its level (0 to 7). Null where only its text was found."""

    seconds: float | None
    level: int | None
    text: str


@answer("dmesg")
class LogAnswer(NamedTuple):
    """Linux' log buffer, the oldest message first."""

    messages: tuple[LogMessage, ...]


@answer("entry")
class EntryAnswer(NamedTuple):
    """The entry, and where the machine is now. The offsets are how far the kernel was moved in physical and in linear memory."""

    address: Hex
    symbol: str | None
    found_by: str
    now: str
    load_bias: Hex
    kaslr_offset: Hex | None


@answer("pagewalk")
class PageWalkAnswer(NamedTuple):
    """A walk of the page tables. `scheme` is null with paging off; `physical` where nothing is mapped, and `problem` says why."""

    linear: Hex
    symbol: str | None
    scheme: str | None
    levels: tuple[Level, ...]
    physical: Hex | None
    page_size: Hex | None
    problem: str | None


@answer("pagemap")
class PageRangesAnswer(NamedTuple):
    """All that the page tables map: ranges of equal rights. `more` ranges were left out, `unread` tables cannot be read."""

    scheme: str | None
    ranges: tuple[MappedRange, ...]
    more: int
    unread: int
    cut: bool


@answer("memory")
class MemoryAnswer(NamedTuple):
    """Physical memory: its bytes, and the same as little-endian values of `unit` bytes."""

    address: Hex
    unit: int
    values: tuple[Hex, ...]
    data: bytes


class MachineCode(NamedTuple):
    """One instruction. `symbol` names its address, `target` the function that it calls."""

    address: Hex
    code: bytes
    text: str
    symbol: str | None
    target: str | None
    current: bool


@answer("disas")
class DisassemblyAnswer(NamedTuple):
    """Instructions in the CPU's current mode."""

    mode: str
    instructions: tuple[MachineCode, ...]


class PlacedSymbol(NamedTuple):
    """A symbol: its current linear address (null where the kernel is not in memory), its physical and its linked address."""

    name: str
    now: Hex | None
    physical: Hex
    linked: Hex


@answer("symbols")
class SymbolsAnswer(NamedTuple):
    """The kernel's symbols that were asked for. `known` is how many the file has, `more` how many matches were left out.

    `at` is the symbol at an address that was asked for.
    """

    path: str
    known: int
    in_memory: bool
    load_bias: Hex
    kaslr_offset: Hex | None
    symbols: tuple[PlacedSymbol, ...]
    more: int
    at: str | None


class ShownNote(NamedTuple):
    """An ELF note. `name` is null for a type that the owner is not known to have; `data` are the bytes of its descriptor."""

    owner: str
    type: Hex
    name: str | None
    value: str | None
    data: bytes
    size: int


@answer("notes")
class NotesAnswer(NamedTuple):
    """The kernel's ELF notes."""

    path: str
    notes: tuple[ShownNote, ...]
