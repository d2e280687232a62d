"""The answers about the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pvhdbg.decode.cpu_mode import Evidence
from pvhdbg.decode.descriptors import Descriptor, Gate
from pvhdbg.model import Hex
from pvhdbg.report.answers.declare import PartOf, answer


@answer("segments")
class SegmentsAnswer(NamedTuple):
    """The hidden segment state."""

    segments: Annotated[Mapping[str, Any], PartOf("regs", ("properties", "segments"))]


@answer("mode")
class ModeAnswer(NamedTuple):
    """The CPU's mode, and the bits that it follows from. `code` is the width of code in bits, `privilege` the CPL."""

    name: str
    paging: str
    code: int | None
    privilege: int | None
    evidence: tuple[Evidence, ...]


@answer("gdt")
class GdtAnswer(NamedTuple):
    """The global descriptor table without its null entries. `loaded` has the registers that hold a selector of it."""

    base: Hex
    limit: Hex
    entries: tuple[Descriptor, ...]
    loaded: Mapping[str, Hex]


@answer("idt")
class IdtAnswer(NamedTuple):
    """The interrupt descriptor table without its empty entries; in real mode its vectors. `names` has the symbols of handlers."""

    base: Hex
    limit: Hex
    real_mode: bool
    entries: tuple[Gate, ...]
    names: Mapping[str, str]


@answer("tss")
class TssAnswer(NamedTuple):
    """The task state segment. `width` is null while TR has its reset value; `missing` are fields beyond its limit."""

    base: Hex
    limit: Hex
    selector: Hex
    width: int | None
    values: Mapping[str, Hex]
    missing: tuple[str, ...]
