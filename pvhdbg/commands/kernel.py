"""The commands about kernel files: `elf` and `extract`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.formats import of_file
from pvhdbg.commands.options import JudgeOptions
from pvhdbg.commands.output import open_output
from pvhdbg.commands.time_limit import time_limit
from pvhdbg.decode.elf import build_id
from pvhdbg.decode.text import printable
from pvhdbg.disassembly import available, disassemble
from pvhdbg.errors import BadInput
from pvhdbg.kernel import image as kernel_image
from pvhdbg.kernel.file_bytes import pieces
from pvhdbg.loaders.catalogue import LOADERS, find, simulate
from pvhdbg.loaders.loading import BootParameters
from pvhdbg.record import NamedTuple, replace
from pvhdbg.report.json_text import written
from pvhdbg.report.kernel_document import CodeLine, EntryPlace, FileReport
from pvhdbg.report.style import Style
from pvhdbg.rules.files import FILE_RULES, judge_file
from pvhdbg.spec.elf import ET_CORE, PT_LOAD
from pvhdbg.spec.revisions import REVISIONS, SpecName

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.kernel.symbols import Symbols
    from pvhdbg.loaders.loading import Loader
    from pvhdbg.rules.declare import Rule

_CODE = 64  # bytes that are disassembled at the entry
_INSTRUCTIONS = 10
_LINE_SECONDS, _TYPE_SECONDS, _BYTES_A_SECOND = 60, 60, 1 << 20  # time limits for reading debug info


class ElfOptions(NamedTuple):
    """The options of `elf`; `loaders` is `--as`."""

    file: str = ""
    loaders: tuple[str, ...] = ()
    symbol: str | None = None
    type: str | None = None
    memory: str | None = None
    spec: SpecName = "v1"
    judge: JudgeOptions = JudgeOptions()


class ExtractOptions(NamedTuple):
    """The options of `extract`."""

    image: str
    output: str


@takes(ElfOptions)
def elf(options: ElfOptions, context: Context) -> Answer:
    """`elf`: what is in a kernel file, where each loader would enter it, and what is wrong."""
    if options.symbol is not None and options.type is not None:
        raise BadInput("--symbol and --type are two questions", "ask one after the other")
    if context.session is not None and not options.file:
        if context.session.image is None:
            raise BadInput("no kernel file is known", context.session.naming)
        return _of_image(context.session.image, options)
    context.progress("reading the kernel")
    with kernel_image.open_kernel(options.file) as image:
        return _of_image(image, options)


def _of_image(image: KernelImage, options: ElfOptions) -> Answer:
    if image.elf.header.e_type == ET_CORE:
        raise BadInput(f"{image.path} is a core, not a kernel", f"judge the machine in it: pvhdbg check {image.path}")
    if options.symbol is not None:
        return _symbol(image, options.symbol)
    if options.type is not None:
        return _type(image, options.type)
    return _answer(file_report(image, options))


def file_report(image: KernelImage, options: ElfOptions) -> FileReport:
    """The report on an opened file, which may be closed afterwards. Raises BadInput for a wrong rule or loader."""
    loaders = _loaders(options.loaders)
    rules = _rules(options.judge)
    file, symbols = image.file(), image.symbols()
    return FileReport(
        path=image.path,
        kernel=file.without_data(),
        verdicts=judge_file(file, rules, REVISIONS[options.spec]),
        loadings=simulate(file, BootParameters(memory=_bytes(options.memory)), loaders),
        entry=_entry(image, symbols),
        build_id=build_id((*file.elf.notes, *file.section_notes)),
        symbols=len(symbols),
        symbols_from=symbols.origin,
        strict=options.judge.strict,
    )


def _rules(judge: JudgeOptions) -> tuple[Rule, ...]:
    """The chosen rules, out of the whole catalogue: --select and --ignore may name any rule's id."""
    if not (judge.select or judge.ignore):
        return FILE_RULES
    return judge.rules()


def _bytes(size: str | None) -> int | None:
    """As QEMU's -m has it: a number is MiB. Raises BadInput."""
    if size is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([KMGT]?)i?B?", size, re.IGNORECASE | re.ASCII)
    if match is None or not int(match[1]):
        raise BadInput(f"--memory {size} is not a size", "write it as 512M or 2G")
    return int(match[1]) << {"K": 10, "M": 20, "G": 30, "T": 40}[match[2].upper() or "M"]


def _loaders(names: tuple[str, ...]) -> tuple[Loader, ...]:
    return find(names) if names else LOADERS


def _entry(image: KernelImage, symbols: Symbols) -> EntryPlace | None:
    address = image.kernel().entry
    if address is None:
        return None
    near = symbols.nearest(address)
    place = EntryPlace(address, *(near or (None, 0)))
    for index, load in enumerate(image.elf.segments):
        if load.p_type != PT_LOAD or not load.p_paddr <= address < load.p_paddr + load.p_memsz:
            continue
        place = replace(place, segment=index)
        start = address - load.p_paddr
        if start < load.p_filesz:
            code = bytes(image.data[load.p_offset + start : load.p_offset + min(start + _CODE, load.p_filesz)])
            found = disassemble(code, address, 32, _INSTRUCTIONS) if available() else ()
            lines = tuple(CodeLine(*line) for line in found)
            place = replace(place, offset=load.p_offset + start, code=lines)
        break
    return place


@takes(ExtractOptions)
def extract(options: ExtractOptions, context: Context) -> Answer:
    """`extract`: write the ELF inside a compressed kernel."""
    context.progress(f"unpacking {options.image}")
    if options.output == "-":
        with kernel_image.open_kernel(options.image) as image, open_output("-") as output:
            for piece in pieces(image.data):
                output.write_bytes(bytes(piece))
                if output.unread:
                    break
        return Answer(lambda _: "")
    was = kernel_image.extract(options.image, options.output)
    return Answer(lambda _: f"{options.output}: the ELF inside {options.image} ({was})\n")


def _answer(report: FileReport) -> Answer:
    def as_text(style: Style) -> str:
        from pvhdbg.report import kernel_text

        return kernel_text.render(report, style)

    def as_json() -> str:
        from pvhdbg.report import kernel_json

        return kernel_json.render(report)

    return Answer(as_text, as_json, report.exit_code, of_file(report), report)


# --- symbols and types --------------------------------------------------------------------------------------------


def _symbol(image: KernelImage, wanted: str) -> Answer:
    """A name's addresses, or the symbol at an address: virtual and physical, with the source line where there is debug info."""
    from pvhdbg.kernel.debug_info import DebugInfo

    symbols = image.symbols()
    try:
        address: int | None = int(wanted, 0)
    except ValueError:
        address = None
    if address is None:
        name, offset, virtual = wanted, 0, symbols.virtual_address(wanted)
    else:
        if not 0 <= address < 1 << 64:
            raise BadInput(f"{wanted} is not an address", "give a number below 2^64")
        found = symbols.nearest_virtual(address)
        virtual = address
        for alias in symbols.to_virtual(address) if found is None else ():
            found, virtual = symbols.nearest(address), alias
        if found is None:
            raise BadInput(f"no segment has a symbol at or below {address:#x}", "list the segments with: pvhdbg elf FILE")
        name, offset = found
    try:
        with time_limit(_LINE_SECONDS):
            line, unknown = DebugInfo(image.data).line(virtual), ""
    except BadInput as error:  # the address was asked for, and is known
        line, unknown = None, error.what
    shown: str = printable(name)
    facts: dict[str, Any] = {
        "name": shown,
        "offset": offset,
        "virtual": f"{virtual:#x}",
        "physical": f"{symbols.to_physical(virtual):#x}",
        "line": None if line is None else printable(line),
    }
    shown += f"+{offset:#x}" if offset else ""
    text = f"{shown}  virtual {facts['virtual']}  physical {facts['physical']}" + (f"  {facts['line']}" if line else "") + "\n"
    text += f"  no line: {printable(unknown)}\n" if unknown else ""
    return Answer(lambda _: text, lambda: written({"schema": "pvhdbg/symbol/1", **facts}))


def _type(image: KernelImage, name: str) -> Answer:
    """The layout of a structure, by the kernel's own debug info."""
    from pvhdbg.kernel.debug_info import DebugInfo

    with time_limit(_TYPE_SECONDS + len(image.data) // _BYTES_A_SECOND):
        debug = DebugInfo(image.data)
        if not debug:
            raise BadInput(
                f"{image.path} has no debug info", "build it with -g (Linux: CONFIG_DEBUG_INFO), or give the unstripped file"
            )
        layout = debug.structure(name)
        if layout is None and debug.is_elsewhere:
            raise BadInput("the debug info is in separate .dwo files", "build it without -gsplit-dwarf")
    if layout is None:
        raise BadInput(f"the debug info has no struct or union {name}", "give its tag, without struct in front")
    rows = [
        {"name": printable(one.name), "offset": one.offset, "size": one.size, "type": printable(one.type),
         "bit_offset": one.bit_offset, "bit_size": one.bit_size}
        for one in layout.members
    ]  # fmt: skip

    def as_text(style: Style) -> str:
        lines = [style("head", f"{layout.kind} {printable(name)}, {layout.size} bytes")]
        for row in rows:
            offset, size = ("?" if row[key] is None else str(row[key]) for key in ("offset", "size"))
            offset += "" if row["bit_offset"] is None else f":{row['bit_offset']}"
            bits = "" if row["bit_size"] is None else f" : {row['bit_size']}"
            lines.append(f"  {offset:>5}  {size:>5}  {row['type']} {row['name']}{bits}")
        return "\n".join(lines) + "\n"

    document: dict[str, Any] = {
        "schema": "pvhdbg/type/1",
        "name": printable(name),
        "kind": layout.kind,
        "size": layout.size,
        "members": rows,
    }
    return Answer(as_text, lambda: written(document))
