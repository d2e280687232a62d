"""`pvhdbg --help`: all commands by topic, and the commands of one family (`pvhdbg snapshot --help`). Nothing is parsed here."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.commands.declare import Command
from pvhdbg.commands.table import COMMANDS
from pvhdbg.version import BASE_URL

TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("judge a hand-off", ("check", "run", "attach", "probe", "diff", "expect", "stress")),
    ("judge many boots", ("sweep", "sweep report", "sweep diff", "sweep query", "sweep export")),
    ("inspect a kernel file, without a machine", ("elf", "extract")),
    ("what was handed over", ("info", "cmdline", "memmap", "modules", "rsdp", "fwcfg")),
    ("the CPU and its tables", ("regs", "segments", "mode", "gdt", "idt", "tss")),
    ("memory, code and names", ("entry", "pagewalk", "xp", "disas", "symbols", "notes")),
    ("after the entry", ("why", "wait", "dmesg", "trace", "trace query", "trace diff", "trace export", "timeline")),
    (
        "record a boot, and go back in it",
        ("boot", "boot show", "boot profile", "boot blocks", "boot coverage", "boot timeline", "boot diff", "goto"),
    ),
    ("prompt, GDB, agents", ("repl", "gdb", "gdb-path", "drgn", "mcp")),
    ("keep a hand-off", ("snapshot save", "snapshot export")),
    ("this computer", ("doctor", "config", "completion")),
    ("the rules, and the JSON of answers", ("explain", "rules", "schema")),
)
"""Each topic with its commands, in the order in which a new user needs them. A command without a topic is shown at the end."""

_PAGES = {
    "probe": "probe",
    "diff": "ci",
    "expect": "expectations",
    "elf": "elf",
    "trace": "tracing",
    "timeline": "tracing",
    "boot": "recorded-boots",
    "goto": "time-travel",
    "repl": "repl",
    "stress": "stress",
    "sweep": "sweeps",
    "gdb": "gdb",
    "mcp": "mcp",
    "drgn": "drgn",
    "gdb-path": "gdb",
    "snapshot": "snapshots",
    "explain": "rules",
    "rules": "rules",
}
"""The page about a command, by the first word of its name; those that are not here are on the first page."""

OPENING = """Boot debugger for the Xen PVH (x86/HVM direct boot) ABI.

begin with:
  pvhdbg check vmlinux         boot the kernel, stop at its entry, and judge what it was handed
  pvhdbg why vmlinux           boot it, and explain why it dies
  pvhdbg COMMAND --help        all about one command, with an example
"""

CLOSING = """exit codes: 0 conforms, 1 violated, 2 usage or unreadable input, 3 not observed up to the entry,
4 undecided under --strict, 70 internal error"""

_COLUMN = 19


def page_of(name: str) -> str:
    """The name of the page of the documentation that leads into a command."""
    return _PAGES.get(name.split()[0], "start")


def address_of(page: str) -> str:
    """Where the page is: on the site, or while there is none, in the repository."""
    return f"{BASE_URL}{page}.html" if BASE_URL else f"docs/{page}.md"


def by_topic() -> list[tuple[str, list[Command]]]:
    """Every command of the command line once, under its topic; those without one under "more"."""
    commands = {command.name: command for command in COMMANDS}
    groups = [(topic, [commands.pop(name) for name in names if name in commands]) for topic, names in TOPICS]
    return [*groups, *([("more", list(commands.values()))] if commands else [])]


def overview() -> str:
    """The list of commands in `pvhdbg --help`, wrapped for the terminal."""
    return OPENING + "".join(f"\n{topic}:\n{_listed(commands)}" for topic, commands in by_topic())


def family(word: str) -> str:
    """The two-word commands that begin with `word`, as lines; empty when there are none."""
    return _listed([command for command in COMMANDS if command.name.startswith(f"{word} ")])


def _listed(commands: Sequence[Command]) -> str:
    if not commands:  # most commands have no family
        return ""
    import shutil
    import textwrap

    width = max(shutil.get_terminal_size().columns, _COLUMN + 20)
    return "".join(
        textwrap.fill(
            command.help,
            width,
            initial_indent=f"  {command.name:<{_COLUMN - 2}}",
            subsequent_indent=" " * _COLUMN,
            break_on_hyphens=False,
        )
        + "\n"
        for command in commands
    )
