"""The commands that only the prompt has: running, breakpoints, leaving. Declared like all others."""

from __future__ import annotations

from pvhdbg.commands.declare import Command, argument
from pvhdbg.commands.table import LIVE
from pvhdbg.machine.context_view import Part
from pvhdbg.tracing.mode_words import FOREMOST

_BOTH = ("text", "json")
_NUMBERS = argument("number", metavar="N", nargs="*", type=int, help="its number; all of them without one")
_COUNT = argument("steps", metavar="N", nargs="?", type=int, default=1, help="how many (1)")


def _own(name: str, action: str, help: str, example: str, *arguments: object, aliases: tuple[str, ...] = (), repeats: bool = False,
         formats: tuple[str, ...] = ("text",)) -> Command:  # fmt: skip
    """`action` is the module in `repl/actions` and its function."""
    return Command(
        name,
        help,
        "",
        f"pvhdbg.repl.actions.{action}",
        arguments,  # type: ignore[arg-type]
        formats=formats,
        live=True,
        live_example=example,
        aliases=aliases,
        repeats=repeats,
    )


OWN: tuple[Command, ...] = (
    _own("continue", "running:continue_", "run the guest to the next stop; Ctrl-C interrupts it", "continue", aliases=("c",), repeats=True),
    _own("stepi", "running:stepi", "step one instruction, or several", "stepi 3", _COUNT, aliases=("si",), repeats=True),
    _own(
        "until", "running:until",
        "run to a symbol or an address, or into a mode: " + ", ".join(FOREMOST),
        "until long-mode",
        argument("where", metavar="SYMBOL|ADDRESS|MODE", nargs="+", help="the goal", completes="mode symbol register"),
        aliases=("u",),
    ),
    _own(
        "break", "stopping:break_",
        "stop at a symbol, before paging and after, or at an address: hardware breakpoints",
        "break pvh_start+5",
        argument("where", metavar="SYMBOL|ADDRESS", nargs="*", help="the place (default: the pc)", completes="symbol register"),
        aliases=("b",),
    ),
    *(
        _own(word, f"stopping:{word}", f"stop behind each {what}: SIZE bytes (4) at a symbol or an address", f"{word} pvh_start:8",
             argument("where", metavar="SYMBOL|ADDRESS[:SIZE]", nargs="+", help="what is watched", completes="symbol register"))
        for word, what in (("watch", "store to memory"), ("rwatch", "load from memory"), ("awatch", "access to memory"))
    ),
    _own("finish", "running:finish", "run until the current function returns to its caller", "finish", aliases=("fin",)),
    _own("delete", "stopping:delete", "delete breakpoints and watchpoints", "delete 1", _NUMBERS, aliases=("d",)),
    _own("info breakpoints", "stopping:info_breakpoints", "list the breakpoints and watchpoints", "info breakpoints", formats=_BOTH),
    _own("display", "looking:display", "show memory as x does, or the value of a $register, at each stop; without an argument now", "display/4xw $rsp",
         argument("format_", metavar="/FORMAT", nargs="?", help="a count, a format, a size: /8xw"),
         argument("address", metavar="ADDRESS", nargs="*", help="a number, a $register or a symbol, with + and -",
                  completes="register symbol"), formats=_BOTH),
    _own("undisplay", "looking:undisplay", "show it no longer", "undisplay 1", _NUMBERS),
    _own(
        "info registers", "looking:info_registers",
        "show the registers, or some of them",
        "info registers rip cr0",
        argument("name", metavar="REGISTER", nargs="*", help="its name", completes="register"),
    ),
    _own(
        "x", "looking:x",
        "show memory at a linear address, as GDB's x does: x, d, u, s, i and b, h, w, g",
        "x/4i $pc",
        argument("format_", metavar="/FORMAT", nargs="?", help="a count, a format, a size: /8xw"),
        argument("address", metavar="ADDRESS", nargs="*", help="a number, a $register or a symbol, with + and -",
                 completes="register symbol"),
        repeats=True,
    ),
    _own("context", "looking:context", "show the registers that changed, the code with its source line, the stack, the last serial line", "context",
         formats=_BOTH),
    _own("set context", "looking:set_context", "show the context at each stop, or no longer; with PARTs, which parts it has", "set context stack off",
         argument("words", metavar="[PART …] on|off", nargs="*", words=("on", "off", *(part.value for part in Part)),
                  help=f"parts: {', '.join(part.value for part in Part)}")),
    _own("monitor", "looking:monitor", "run a command of QEMU's monitor", "monitor info mtree",
         argument("command", metavar="COMMAND", nargs="+", help="the command"), aliases=("mon",)),
    _own("gdb", "leaving:gdb", "pass a line to GDB, which then holds the machine; lines that are not our commands go there, too", "gdb info line",
         argument("command", metavar="LINE", nargs="+", help="the line")),
    _own("kernel", "looking:kernel", "name the kernel file that the machine was given, or say which is known", "kernel",
         argument("file", metavar="ELF", nargs="?", help="the file; without it the known one is shown", completes="file")),
    _own("reset", "leaving:reset", "reset the machine to before its first instruction", "reset"),
    _own("restart", "leaving:restart", "boot again to the entry, also when the machine is gone", "restart", aliases=("run-to-entry",)),
    _own("source", "leaving:source", "run the lines of a file", "source boot.pvh",
         argument("file", metavar="FILE", help="the file", completes="file")),
    _own("shell", "leaving:shell", "run a command in the system's shell", "shell ls",
         argument("command", metavar="COMMAND", nargs="+", help="the command")),
    _own("detach", "leaving:detach", "let the machine run on without pvhdbg, and leave", "detach"),
    _own("kill", "leaving:kill", "end the machine's VMM; restart boots it again", "kill", aliases=("k",)),
    _own("quit", "leaving:quit", "leave: a QEMU that was started here ends, a gdbstub's machine stays stopped", "quit", aliases=("q", "exit")),
)  # fmt: skip
ALL: tuple[Command, ...] = tuple(sorted((*LIVE, *OWN), key=lambda command: command.name))
RAW = frozenset({"monitor", "shell", "gdb"})  # the rest of their line is passed on as it was typed
OF_VALUES = frozenset({"watch", "rwatch", "awatch", "display"})  # with an expression in C they are GDB's
NO_MACHINE = frozenset(
    {
        "help",
        "apropos",
        "explain",
        "rules",
        "notes",
        "elf",
        "restart",
        "goto",
        "quit",
        "detach",
        "source",
        "shell",
        "info breakpoints",
        "delete",
        "undisplay",
        "set context",
        "kill",
    }
)

# GDB's commands, mainly short ones. They are never taken for abbreviations of ours while GDB is available.
_WORDS = """
p print bt backtrace where l list n next ni nexti s step advance f frame up down ptype whatis set show
hbreak thbreak tbreak rbreak call output printf echo find thread threads maint maintenance python py file
symbol-file add-symbol-file directory dump restore handle signal jump return compile define
"""
GDB_WORDS = frozenset(_WORDS.split())
