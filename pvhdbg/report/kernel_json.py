"""A kernel file's report as JSON, schema `pvhdbg/elf/1` (report/schemas/elf-1.json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.note_values import owner_name, value
from pvhdbg.decode.notes import Note
from pvhdbg.decode.text import printable
from pvhdbg.loaders.loading import Loading
from pvhdbg.report.json_report import shown_verdict
from pvhdbg.report.json_text import written
from pvhdbg.report.kernel_document import FileReport, overlaps, sections_of_notes
from pvhdbg.rules.kernel_file import paddr_offset
from pvhdbg.spec.elf import MACHINES, SEGMENT_TYPES

SCHEMA = "pvhdbg/elf/1"
_DESC = 256  # bytes of a descriptor that are shown


def render(report: FileReport) -> str:
    """The document as text."""
    return written(document(report))


def document(report: FileReport) -> dict[str, Any]:
    """The document as plain values: addresses and offsets are hexadecimal strings, sizes and counts numbers."""
    kernel = report.kernel
    setup, header = kernel.container.setup, kernel.elf.header
    sections = sections_of_notes(kernel)
    return {
        "schema": SCHEMA,
        "file": {
            "path": printable(report.path),
            "size": kernel.container.size,
            "container": "bzImage" if setup is not None else kernel.container.compression,
            "compression": kernel.container.compression,
            "boot_protocol": None if setup is None else f"{setup.version >> 8}.{setup.version & 0xFF:02}",
            "efi": kernel.container.efi,
            "class": kernel.elf.bits,
            "machine": MACHINES.get(header.e_machine, f"{header.e_machine:#x}"),
            "e_entry": f"{header.e_entry:#x}",
            "build_id": report.build_id,
            "made_by": list(kernel.made_by),
            "tool": report.maker.value if report.maker is not None else None,
            "multiboot": [
                {"version": one.version, "offset": f"{one.offset:#x}", "flags": f"{one.flags:#x}"}
                for one in (kernel.multiboot1, kernel.multiboot2) if one is not None
            ],
            "xen_guest": kernel.legacy,
            "symbols": report.symbols,
            "symbols_from": report.symbols_from,
            "damage": kernel.damage or None,
        },
        "entry": _entry(report),
        "notes": [_note(note, sections, True) for note in kernel.elf.notes]
        + [_note(note, sections, False) for note in kernel.section_notes],
        "segments": _segments(kernel),
        "overlaps": [
            {"segments": [one.first, one.second], "start": f"{one.start:#x}", "end": f"{one.end:#x}"} for one in overlaps(kernel)
        ],
        "paddr_offset": f"{paddr_offset(kernel):#x}",
        "loaders": [_loading(one) for one in report.loadings],
        "verdicts": [shown_verdict(verdict) for verdict in report.verdicts],
        "summary": {outcome.value: number for outcome, number in report.summary.items()},
        "strict": report.strict,
        "conclusion": report.conclusion,
        "exit_code": report.exit_code,
    }  # fmt: skip


def _entry(report: FileReport) -> dict[str, Any]:
    entry = report.entry
    if entry is None:
        return {"address": None, "symbol": None, "symbol_offset": None, "segment": None, "offset": None, "code": []}
    return {
        "address": f"{entry.address:#x}",
        "symbol": None if entry.symbol is None else printable(entry.symbol),
        "symbol_offset": None if entry.symbol is None else entry.symbol_offset,
        "segment": entry.segment,
        "offset": None if entry.offset is None else f"{entry.offset:#x}",
        "code": [{"address": f"{line.address:#x}", "bytes": line.data.hex(), "text": line.text} for line in entry.code],
    }


def _note(note: Note, sections: Mapping[int, str], in_segment: bool) -> dict[str, Any]:
    said = value(note)
    return {
        "owner": owner_name(note),
        "type": note.type,
        "name": said.name,
        "kind": said.kind.value,
        "value": f"{said.number:#x}" if said.number is not None else said.text,
        "parts": list(said.lines),
        "desc": note.desc[:_DESC].hex(),
        "desc_size": len(note.desc),
        "offset": f"{note.offset:#x}",
        "segment": note.segment if in_segment else None,
        "section": sections.get(note.offset),
        "p_align": note.align,
        "padding": note.padding,
    }


def _segments(kernel: KernelFile) -> list[dict[str, Any]]:
    return [
        {
            "type": SEGMENT_TYPES.get(one.p_type, f"{one.p_type:#x}"),
            "flags": one.p_flags,
            "offset": f"{one.p_offset:#x}",
            "vaddr": f"{one.p_vaddr:#x}",
            "paddr": f"{one.p_paddr:#x}",
            "filesz": one.p_filesz,
            "memsz": one.p_memsz,
            "align": one.p_align,
        }
        for one in kernel.elf.segments
    ]


def _loading(one: Loading) -> dict[str, Any]:
    return {
        "loader": one.loader,
        "protocol": one.protocol,
        "entry": None if one.entry is None else f"{one.entry:#x}",
        "bits": one.bits,
        "refusal": one.refusal,
        "undefined": one.undefined,
        "crash": one.crash,
        "quirks": [{"text": quirk.text, "source": quirk.source} for quirk in one.quirks],
        "fw_cfg": [
            {
                "name": item.name,
                "value": f"{item.value:#x}"
                if isinstance(item.value, int)
                else None
                if item.value is None
                else item.value[:_DESC].hex(),
                "size": item.size,
            }
            for item in one.fw_cfg
        ],
    }
