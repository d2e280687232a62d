"""A kernel file's report as text."""

from __future__ import annotations

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.note_values import owner_name, value
from pvhdbg.decode.notes import Note
from pvhdbg.decode.text import printable
from pvhdbg.loaders.loading import EntryProtocol, Loading
from pvhdbg.report import load_picture, verdict_text
from pvhdbg.report.kernel_document import FileReport, sections_of_notes
from pvhdbg.report.sizes import human
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.rules.files import FILE_CHAPTERS
from pvhdbg.rules.kernel_file import paddr_offset
from pvhdbg.spec.elf import MACHINES
from pvhdbg.spec.elf_notes import PHYS32_ENTRY, PHYS32_ENTRY_DRAFT_NAME

_NOTES = 64  # notes that the text shows; JSON has all


def render(report: FileReport, style: Style = PLAIN) -> str:
    """The whole report; with a brief style what fails, and the conclusion."""
    kernel = report.kernel
    last = verdict_text.conclusion(report.conclusion, report.summary, report.exit_code, style)
    if style.brief:
        return "".join(f"{line}\n" for line in (*verdict_text.failing(report.verdicts, style), last))
    blocks = [
        _header(report, style),
        _titled("Entry", _entry(report, style), style),
        _titled("Notes", _notes(kernel, style), style),
        _titled("Loaded at", load_picture.render(kernel, report.entry, paddr_offset(kernel), style), style),
        _titled("Loaders", _loaders(report.loadings, style), style) if report.loadings else [],
        verdict_text.checks(report.verdicts, FILE_CHAPTERS, "Checks of the kernel file", style) if report.verdicts else [],
    ]
    return "\n".join("\n".join(block) + "\n" for block in blocks if block) + f"\n{last}\n"


def _titled(title: str, lines: list[str], style: Style) -> list[str]:
    return [style("head", title), *lines]


def what_it_is(kernel: KernelFile) -> str:
    """The kind of the file: "bzImage (boot protocol 2.15, payload lz4, 7.6 MiB) around an ELF64 for x86-64, 50 MiB"."""
    container, elf = kernel.container, kernel.elf
    inner = f"ELF{elf.bits} for {MACHINES.get(elf.header.e_machine, hex(elf.header.e_machine))}"
    if container.setup is not None:
        version = f"{container.setup.version >> 8}.{container.setup.version & 0xFF:02}"
        return f"bzImage (boot protocol {version}, payload {container.compression}, {human(container.size)}) around an {inner}"
    if container.compression is not None:
        return f"{container.compression} ({human(container.size)}) around an {inner}"
    return f"{inner}, {human(container.size)}"


def _header(report: FileReport, style: Style) -> list[str]:
    kernel = report.kernel
    rows = [("file", f"{printable(report.path)}: {what_it_is(kernel)}")]
    if report.build_id:
        rows.append(("build-id", report.build_id))
    made = "; ".join(kernel.made_by[:3]) or "no signature"
    rows.append(("made by", f"{report.maker.value}: {made}" if report.maker is not None else made))
    rows.append(("headers", ", ".join(headers(kernel)) or "no multiboot, no Linux boot header, no PE"))
    rows.append(("symbols", f"{report.symbols} in {report.symbols_from}" if report.symbols else "none: the file is stripped"))
    lines = [f"{style('head', f'{name:<9}')} {text}" for name, text in rows]
    return lines + ([style("warn", f"note      {printable(kernel.damage)}")] if kernel.damage else [])


def headers(kernel: KernelFile) -> list[str]:
    """The headers of other boot protocols in the file."""
    found = []
    for one in (kernel.multiboot1, kernel.multiboot2):
        if one is not None:
            kind = "flags" if one.version == 1 else "architecture"
            found.append(f"multiboot {one.version} at file offset {one.offset:#x} ({kind} {one.flags:#x})")
    setup = kernel.container.setup
    if setup is not None:
        found.append(f"Linux boot header {setup.version >> 8}.{setup.version & 0xFF:02} (loadflags {setup.loadflags:#x})")
    if kernel.container.efi:
        found.append("PE for EFI")
    if kernel.legacy is not None:
        found.append(f"legacy __xen_guest section: “{kernel.legacy}”")
    return found


def _entry(report: FileReport, style: Style) -> list[str]:
    entry = report.entry
    if entry is None:
        return [style("bad", "  none: no usable PHYS32_ENTRY note")]
    name = _named(entry.symbol, entry.symbol_offset)
    place = (
        f"in program header {entry.segment}, file offset {entry.offset:#x}" if entry.offset is not None else "in no loaded bytes"
    )
    note = report.kernel.entry_notes[-1] if report.kernel.entry is None else report.kernel.entry.note
    lines = [
        f"  {style('head', f'{entry.address:#x}')}{name}  {place}",
        style("dim", f"  PHYS32_ENTRY (Draft A called it {PHYS32_ENTRY_DRAFT_NAME}), note at file offset {note.offset:#x}"),
    ]
    for line in entry.code:
        lines.append(f"    {line.address:8x}: {line.data.hex(' '):<30} {line.text}")
    return lines


def _named(symbol: str | None, offset: int) -> str:
    if symbol is None:
        return ""
    return f" <{printable(symbol)}{f'+{offset:#x}' if offset else ''}>"


def _notes(kernel: KernelFile, style: Style) -> list[str]:
    lines, sections = [], sections_of_notes(kernel)
    found = [(note, True) for note in kernel.elf.notes] + [(note, False) for note in kernel.section_notes]
    for note, in_segment in found[:_NOTES]:
        said = value(note)
        name = f"{owner_name(note):<6} {note.type if note.type < 0x1000 else hex(note.type):>4}  {said.name:<18}"
        mark = style("good", name) if note.is_xen and note.type == PHYS32_ENTRY else name
        lines.append(f"  {mark} {said.text:<22} {style('dim', _place(note, sections.get(note.offset), in_segment))}")
        lines += [style("dim", f"         {line}") for line in said.lines]
    if len(found) > _NOTES:
        lines.append(f"  … and {len(found) - _NOTES} more")
    return lines or ["  none"]


def _place(note: Note, name: str | None, in_segment: bool) -> str:
    section = f", section {name}" if name else ""
    holder = f"program header {note.segment}" if in_segment else "no program header"
    return f"at {note.offset:#x} in {holder}{section}, p_align {note.align}, {len(note.desc)} bytes, padding {note.padding}"


def _loaders(loadings: tuple[Loading, ...], style: Style) -> list[str]:
    lines, width = [], max(len(one.loader) for one in loadings)
    for one in loadings:
        lines.append(f"  {one.loader:<{width}}  {_outcome(one, style)}")
        for quirk in one.quirks:
            lines.append(style("dim", f"  {'':<{width}}  └ {printable(quirk.text)}  [{quirk.source}]"))
    return lines


def _outcome(one: Loading, style: Style) -> str:
    if one.protocol is not None:
        entry = "an address that the run decides" if one.entry is None else f"{one.entry:#x}"
        return f"{style('good' if one.protocol is EntryProtocol.PVH else 'warn', one.protocol.value)} at {entry}"
    if one.refusal is not None:
        return f"{style('bad', 'refuses')}: {printable(one.refusal)}"
    if one.crash is not None:
        return f"{style('bad', 'crashes')}: {printable(one.crash)}"
    return f"{style('warn', 'undefined')}: {printable(one.undefined or '')}"
