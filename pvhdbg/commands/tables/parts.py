"""One part of a machine or of its kernel, each."""

from __future__ import annotations

from pvhdbg.commands.declare import Argument, Command, argument, of_command_line
from pvhdbg.commands.formats import COMPARED
from pvhdbg.commands.tables.shared import JUDGE, LOG, QEMU, SUBJECT, WALK
from pvhdbg.record import replace

_MACHINE = "pvhdbg.commands.machine"
_ADDRESS = argument(
    "address", metavar="ADDRESS", nargs="+", help="a number, a $register or a symbol, with + and -", completes="register symbol"
)
_AN_ADDRESS = argument("address", metavar="ADDRESS", nargs="*", help="the same; the pc without one", completes="register symbol")


def _part(name: str, help: str, words: str, *own: Argument, handed_over: bool = False, module: str = _MACHINE) -> Command:
    """A command that shows one part of a machine, on the command line and in a live session; `words` are those of its example.

    In a session, a command for what was `handed_over` shows the state at the entry, and takes `--here`; the others show the current
    state.
    """
    in_session = "" if words == "--here" else words
    return Command(
        name,
        help,
        f"pvhdbg {name} :1234 {words}".strip(),
        f"{module}:{name}",
        (SUBJECT, *own, *QEMU, *(WALK if handed_over else of_command_line(*WALK)), *LOG),
        passes_on=True,
        live=True,
        live_example=f"{name.split()[0]} {in_session}".strip(),
    )


PARTS: tuple[Command, ...] = (
    Command(
        "snapshot save",
        "save the hand-off to a file that check, regs and info read",
        "pvhdbg snapshot save vmlinux -o boot.pvhsnap",
        "pvhdbg.commands.snapshot:save",
        (
            SUBJECT,
            argument("-o", "--output", metavar="FILE", required=True, help="the file to write", live=False),
            argument("output", metavar="FILE", help="the file to write", completes="file", live=True),
            argument(
                "--redact",
                action="append",
                metavar="PART",
                choices=("cmdline",),
                default=[],
                help="leave out: cmdline is the command lines, also the VMM's -append",
            ),
            *QEMU,
            *of_command_line(*WALK),
            *LOG,
        ),
        formats=("text",),
        passes_on=True,
        live=True,
        live_example="snapshot save boot.pvhsnap",
    ),
    _part("segments", "show the hidden segment state", ""),
    _part("gdt", "decode the global descriptor table", ""),
    _part("idt", "decode the interrupt descriptor table, or the real mode's vectors", ""),
    _part("tss", "decode the task state segment", ""),
    _part("mode", "show the CPU's mode, and how it was determined", ""),
    _part("modules", "list the modules that were handed over", "", handed_over=True),
    _part("memmap", "draw the memory map that was handed over", "", handed_over=True),
    _part("cmdline", "print the command line that was handed over", "", handed_over=True),
    _part("rsdp", "list the ACPI tables, with the state of their checksums", "", handed_over=True),
    _part("entry", "show where the entry is, how it was found, and where the machine is now", ""),
    _part(
        "pagewalk",
        "walk the page tables for a linear address, and show each level, or list all that they map",
        "$rip",
        replace(_AN_ADDRESS, options={**_AN_ADDRESS.options, "help": "a number, a $register or a symbol, with + and -"}),
        argument("--all", dest="everything", action="store_true", help="the whole address space: ranges of equal rights"),
    ),
    _part(
        "xp",
        "show physical memory, without paging",
        "/8w 0x100000",
        argument("format_", metavar="/FORMAT", nargs="?", help="a count, and b, h, w or g (1, 2, 4 or 8 bytes): /16w"),
        _ADDRESS,
    ),
    _part(
        "disas",
        "disassemble in the CPU's current mode",
        "/5 $rip",
        argument("format_", metavar="/COUNT", nargs="?", help="how many instructions (10)", completes="register symbol"),
        _AN_ADDRESS,
    ),
    _part(
        "symbols",
        "show where the kernel's symbols are now, by name, name* or address",
        "pvh_start*",
        argument("name", metavar="NAME", nargs="?", help="a symbol, a prefix with *, or an address", completes="symbol"),
    ),
    _part("notes", "list the kernel's ELF notes", ""),
    _part("dmesg", "show Linux' log buffer, as it lies in the machine's memory", "--here", module="pvhdbg.commands.dmesg"),
    Command(
        "diff",
        "compare two hand-offs; the exit code says whether they are the same where it matters",
        "pvhdbg diff good.pvhsnap vmlinux --machine q35",
        "pvhdbg.commands.comparing:diff",
        (
            argument("a", metavar="A", help="a kernel file, a gdbstub or a snapshot, as for check", completes="file"),
            argument(
                "b",
                metavar="B",
                help="the same; an option for kernels or gdbstubs only applies to the side that is one",
                live=False,
            ),
            argument(
                "b", metavar="B", nargs="?", help="another; without it this machine is compared with A", completes="file", live=True
            ),
            *QEMU,
            *JUDGE,
            *WALK,
            *LOG,
        ),
        formats=COMPARED,
        passes_on=True,
        live=True,
        live_example="diff good.pvhsnap",
    ),
    Command(
        "snapshot export",
        "write a snapshot as a plain ELF core, which GDB opens",
        "pvhdbg snapshot export boot.pvhsnap -o boot.core",
        "pvhdbg.commands.snapshot:export",
        (
            argument("file", metavar="FILE", help="a snapshot"),
            argument("-o", "--output", metavar="CORE", required=True, help="the file to write"),
        ),
        formats=("text",),
    ),
)
