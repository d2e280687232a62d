"""The report as a JSON document, schema `pvhdbg/report/1` (report/schemas/report-1.json).

Addresses, register values and sizes are lower-case hexadecimal strings, counts are numbers. A value that was not observed is
null, and another key holds the reason.
"""

from __future__ import annotations

from typing import Any

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import BootState, Module, StartInfo, Text, Unread
from pvhdbg.decode.text import printable
from pvhdbg.model import DescriptorTable, FoundBy, ImageComparison, Segment
from pvhdbg.report.document import Report, register_names
from pvhdbg.report.json_text import written
from pvhdbg.rules.declare import Verdict
from pvhdbg.spec.start_info import MEMORY_TYPES, MemoryMapEntry, flag_names

SCHEMA = "pvhdbg/report/1"
_SYSTEM = ("eflags", "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "fs_base", "gs_base")


def render(report: Report) -> str:
    """The document as text."""
    return written(document(report))


def document(report: Report) -> dict[str, Any]:
    """The document as plain values."""
    return {
        "schema": SCHEMA,
        **machine(report.boot),
        "warnings": list(report.warnings),
        "spec": report.boot.revision.name,
        "strict": report.strict,
        "verdicts": [shown_verdict(verdict) for verdict in report.verdicts],
        "summary": {outcome.value: count for outcome, count in report.summary.items()},
        "conclusion": report.conclusion,
        "exit_code": report.exit_code,
        **({} if report.failure is None else {"failure": {"what": report.failure.what, "todo": report.failure.todo or None}}),
    }


def machine(boot: BootState) -> dict[str, Any]:
    """Everything that was observed, without the verdicts."""
    snapshot, kernel = boot.snapshot, boot.snapshot.kernel
    return {
        "vmm": {
            "name": snapshot.vmm.name,
            "version": snapshot.vmm.version,
            "accelerator": snapshot.vmm.accelerator,
            "firmware": boot.firmware.name if boot.firmware else None,
            "firmware_evidence": boot.firmware.evidence if boot.firmware else None,
        },
        "kernel": None
        if kernel is None
        else {
            "path": kernel.path,
            "source": kernel.source,
            "build_id": kernel.build_id,
            "entry": _hex(kernel.entry),
            "loads": [{"start": _hex(load.start), "size": _hex(load.size)} for load in kernel.loads],
            "compared": None if snapshot.image is None else _comparison(snapshot.image),
        },
        "entry": {
            "address": _hex(snapshot.entry.address),
            "found_by": snapshot.entry.found_by,
            "symbol": snapshot.entry.symbol,
        },
        "protocol": _protocol(boot),
        "registers": registers(boot),
        "registers_missing": snapshot.registers.missing if None in registers(boot).values() else None,
        "segments": segments(boot),
        "a20": snapshot.a20,
        **_start_info_part(boot),
        "sources": dict(snapshot.sources),
        "captured": snapshot.captured,
    }


def _comparison(image: ImageComparison) -> dict[str, Any]:
    """How much of the file was compared with memory at the entry, in bytes, and the first difference in each segment."""
    return {
        "bytes": image.compared,
        "of": image.size,
        "zeros": image.zeros,
        "of_zeros": image.zero_size,
        "another_kernel": image.another,
        "differences": [
            {"address": _hex(one.address), "expected": _hex(one.expected), "found": _hex(one.found)} for one in image.differences
        ],
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


def registers(boot: BootState) -> dict[str, str | None]:
    """General and system registers; null for those that were not observed."""
    names = (*register_names(boot), *_SYSTEM)
    return {name: _hex(boot.registers.get(name)) for name in names}


def segments(boot: BootState) -> dict[str, Any]:
    """Hidden segment state; a part that was not observed is null, and `missing` says why."""
    found: dict[str, Any] = {}
    for name in ("cs", "ds", "es", "ss", "fs", "gs", "ldt", "tr"):
        selector = boot.registers.get(name)
        found[name] = _segment(boot.segments[name], selector)
    found["gdt"] = _table(boot.segments.gdt)
    found["idt"] = _table(boot.segments.idt)
    return found


def _segment(segment: Segment, selector: int | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "selector": _hex(segment.selector if segment.selector is not None else selector),
        "base": _hex(segment.base),
        "limit": _hex(segment.limit),
        "flags": _hex(segment.flags),
    }
    if segment.flags is not None:
        shown |= {
            "type": segment.type, "s": segment.s, "dpl": segment.dpl, "present": segment.present, "avl": segment.avl,
            "long": segment.long, "db": segment.db, "granularity": segment.granularity,
        }  # fmt: skip
    if segment.base is None or segment.limit is None or segment.flags is None:
        shown["missing"] = segment.missing
    return shown


def _table(table: DescriptorTable | None) -> dict[str, Any] | None:
    return None if table is None else {"base": _hex(table.base), "limit": _hex(table.limit)}


def _protocol(boot: BootState) -> dict[str, Any]:
    if boot.other_protocol is not None:
        other = boot.other_protocol
        return {"name": other.key, "revision": None, "remarks": [other.title, other.advice]}
    remarks = []
    revision = None
    if not isinstance(boot.start_info_part, Unread):
        revision = "v1" if boot.start_info.v1 is not None else "v0"
        if boot.start_info.raw.version > 1:
            remarks.append(f"start_info says version {boot.start_info.raw.version}; its prefix is read as version 1")
    elif not isinstance(boot.draft_a_part, Unread):
        revision = "draft-a"
    else:
        remarks.append(boot.start_info_part.reason)
    if boot.snapshot.entry.found_by is FoundBy.HERE:
        remarks.append("decoded where the machine was stopped, not at its entry")
    return {"name": "pvh", "revision": revision, "remarks": remarks}


def _start_info_part(boot: BootState) -> dict[str, Any]:
    if not isinstance(boot.start_info_part, Unread):
        return {"start_info": start_info(boot.start_info), "start_info_missing": None}
    if not isinstance(boot.draft_a_part, Unread):
        draft = boot.draft_a_part
        shown = {
            "address": _hex(draft.address),
            "layout": f"draft-a, {draft.width}-bit",
            "magic": _text(draft.raw.magic.split(b"\0", 1)[0]),
            "console": _hex(draft.raw.console),
            "console_detail": _hex(draft.raw.console_detail),
            "mod_start": _hex(draft.raw.mod_start),
            "mod_len": _hex(draft.raw.mod_len),
            "command_line": _text(draft.raw.cmd_line.split(b"\0", 1)[0]),
        }
        return {"start_info": shown, "start_info_missing": None}
    return {"start_info": None, "start_info_missing": boot.start_info_part.reason}


def start_info(info: StartInfo) -> dict[str, Any]:
    """start_info and what it points to."""
    raw, v1 = info.raw, info.v1
    shown: dict[str, Any] = {
        "address": _hex(info.address),
        "magic": _hex(raw.magic),
        "version": raw.version,
        "flags": _hex(raw.flags),
        "flag_names": flag_names(raw.flags),
        "nr_modules": raw.nr_modules,
        "modlist_paddr": _hex(raw.modlist_paddr),
        "cmdline_paddr": _hex(raw.cmdline_paddr),
        "rsdp_paddr": _hex(raw.rsdp_paddr),
        "memmap_paddr": _hex(v1.memmap_paddr) if v1 else None,
        "memmap_entries": v1.memmap_entries if v1 else None,
        "reserved": _hex(v1.reserved) if v1 else None,
    }
    shown["modules"], shown["modules_missing"] = _listed(info.modules, _module)
    shown["memory_map"], shown["memory_map_missing"] = _listed(info.memory_map, _entry)
    if info.memory_map is None:
        shown["memory_map_missing"] = "there is no memory map" if v1 else "a version 0 start_info has no memory map"
    shown["command_line"], shown["command_line_missing"] = _string(info.command_line)
    if isinstance(info.rsdp, acpi.Rsdp):
        shown["rsdp"], shown["rsdp_missing"] = _rsdp(info.rsdp, info.root_tables), None
    else:
        shown["rsdp"] = None
        shown["rsdp_missing"] = info.rsdp.reason if isinstance(info.rsdp, Unread) else "rsdp_paddr is 0"
    return shown


def _listed(part: Any, render_one: Any) -> tuple[Any, str | None]:
    if part is None:
        return None, None
    if isinstance(part, Unread):
        return None, part.reason
    return [render_one(one) for one in part], None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _string(text: Text | Unread | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, "not present"
    if isinstance(text, Unread):
        return None, text.reason
    if not text.terminated:
        return _text(text.data[:4096])[:4096], "no NUL was found"
    return _text(text.data), None


def _module(module: Module) -> dict[str, Any]:
    line, missing = _string(module.command_line)
    return {
        "address": _hex(module.address),
        "paddr": _hex(module.entry.paddr),
        "size": _hex(module.entry.size),
        "cmdline_paddr": _hex(module.entry.cmdline_paddr),
        "reserved": _hex(module.entry.reserved),
        "command_line": line,
        "command_line_missing": missing,
        "kind": module.kind,
    }


def _entry(entry: MemoryMapEntry) -> dict[str, Any]:
    return {
        "addr": _hex(entry.addr),
        "size": _hex(entry.size),
        "type": entry.type,
        "type_name": MEMORY_TYPES.get(entry.type),
        "reserved": _hex(entry.reserved),
    }


def _rsdp(rsdp: acpi.Rsdp, tables: tuple[acpi.RootTable, ...] | Unread) -> dict[str, Any]:
    return {
        "address": _hex(rsdp.address),
        "revision": rsdp.revision,
        "length": rsdp.length,
        "rsdt": _hex(rsdp.head.rsdt_address),
        "xsdt": _hex(rsdp.xsdt_address),
        "root_tables": []
        if isinstance(tables, Unread)
        else [
            {
                "expected": table.expected.decode("ascii"),
                "signature": None if table.header is None else printable(table.header.signature),
                "address": _hex(table.address),
                "sound": table.sound,
                "problem": table.problem or None,
                "tables": [_hex(entry) for entry in table.entries],
            }
            for table in tables
        ],
    }


def shown_verdict(verdict: Verdict) -> dict[str, Any]:
    """One verdict. A violation has a `fix` if it is of a file."""
    return {
        "rule": verdict.rule.id,
        "title": verdict.rule.title,
        "severity": verdict.severity.value,
        "outcome": verdict.outcome.value,
        "clause": str(verdict.rule.clause),
        "violations": [
            {"at": one.at, "expected": one.expected, "found": one.found, **({"fix": one.fix} if one.fix else {})}
            for one in verdict.violations
        ],
        "reason": verdict.reason or None,
        "deviation": verdict.deviation.key if verdict.deviation else None,
    }
