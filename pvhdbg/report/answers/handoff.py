"""The answers about what was handed over."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pvhdbg.model import Hex
from pvhdbg.report.answers.declare import START_INFO, PartOf, answer


@answer("modules")
class ModulesAnswer(NamedTuple):
    """The modules that were handed over."""

    nr_modules: int
    modlist_paddr: Hex
    modules: Annotated[Any, PartOf("info", (*START_INFO, "modules"))]
    modules_missing: Annotated[Any, PartOf("info", (*START_INFO, "modules_missing"))]


@answer("memmap")
class MemoryMapAnswer(NamedTuple):
    """The memory map that was handed over."""

    memory_map: Annotated[Any, PartOf("info", (*START_INFO, "memory_map"))]
    memory_map_missing: Annotated[Any, PartOf("info", (*START_INFO, "memory_map_missing"))]


@answer("cmdline")
class CommandLineAnswer(NamedTuple):
    """The command line that was handed over."""

    command_line: Annotated[Any, PartOf("info", (*START_INFO, "command_line"))]
    command_line_missing: Annotated[Any, PartOf("info", (*START_INFO, "command_line_missing"))]


class ShownAcpiTable(NamedTuple):
    """An ACPI table that a root table lists. `sound`: its bytes sum to zero; null where they were not summed, and `problem` says why."""

    address: Hex
    signature: str | None
    length: Hex | None
    revision: int | None
    oem_id: str | None
    sound: bool | None
    problem: str | None


@answer("rsdp")
class AcpiTablesAnswer(NamedTuple):
    """The ACPI root, and every table that it lists."""

    rsdp: Annotated[Any, PartOf("info", (*START_INFO, "rsdp"))]
    rsdp_missing: Annotated[Any, PartOf("info", (*START_INFO, "rsdp_missing"))]
    tables: tuple[ShownAcpiTable, ...]
