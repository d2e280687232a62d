"""Expectations, GDB, rules, and pvhdbg itself."""

from __future__ import annotations

from pvhdbg.commands.declare import Command, argument
from pvhdbg.commands.tables.shared import FOR, ONE_QEMU, SUBJECT, WALK

TOOL: tuple[Command, ...] = (
    Command(
        "expect",
        "write a first file for check --expect from a snapshot",
        "pvhdbg expect --from boot.pvhsnap -o boot.toml",
        "pvhdbg.commands.expecting:expect",
        (
            argument("--from", dest="source", metavar="SNAPSHOT", required=True, help="a snapshot, or an ELF core"),
            argument("-o", "--output", metavar="FILE", help="the file to write (default: standard output)"),
        ),
        formats=("text",),
    ),
    Command(
        "gdb",
        "start GDB with the command pvh, the kernel's symbols at both aliases, and the machine",
        "pvhdbg gdb vmlinux :1234 -- -ex 'pvh run-to-entry'",
        "pvhdbg.commands.gdb:gdb",
        (
            argument("kernel", metavar="KERNEL", nargs="?", help="the kernel file that the machine boots"),
            argument("target", metavar="TARGET", nargs="?", help="a gdbstub: :1234, host:1234, unix:PATH, a socket path"),
        ),
        formats=("text",),
        passes_on=True,
        passes_to="GDB",
    ),
    Command(
        "gdb-path",
        "print the path of the script that adds the command pvh to GDB",
        "pvhdbg gdb-path",
        "pvhdbg.commands.gdb:gdb_path",
        formats=("text",),
    ),
    Command(
        "extract",
        "write the ELF kernel that is inside a bzImage or a compressed file",
        "pvhdbg extract /boot/vmlinuz -o vmlinux",
        "pvhdbg.commands.kernel:extract",
        (
            argument("image", metavar="BZIMAGE", help="the compressed kernel"),
            argument("-o", "--output", metavar="ELF", required=True, help="the file to write; - for standard output"),
        ),
        formats=("text",),
    ),
    Command(
        "explain",
        "explain a rule: its clause, why it matters, which VMMs are known to violate it",
        "pvhdbg explain PVH-TR-LIMIT",
        "pvhdbg.commands.rules:explain",
        (argument("id", metavar="ID", help="the rule's id", completes="rule"),),
        live=True,
        live_example="explain PVH-TR-LIMIT",
    ),
    Command(
        "completion",
        "print the script with which a shell completes pvhdbg's commands",
        "pvhdbg completion bash",
        "pvhdbg.commands.completion:completion",
        (
            argument("shell", metavar="SHELL", nargs="?", choices=("bash", "zsh", "fish"), help="bash, zsh or fish"),
            argument("--words", action="store_true", help="list what may come next on the line behind --, for these scripts"),
        ),
        formats=("text",),
        passes_on=True,
        passes_to="the completion",
    ),
    Command(
        "drgn",
        "open drgn on a machine, a snapshot or a core, from the entry on: kernel structures by their names",
        "pvhdbg drgn vmlinux --until start_kernel -c 'prog[\"init_task\"].comm'",
        "pvhdbg.drgn:drgn",
        (
            SUBJECT,
            argument("--until", metavar="SYMBOL", help="run on to this symbol first"),
            FOR,
            argument(
                "-c",
                dest="code",
                metavar="PYTHON",
                action="append",
                default=[],
                help="a line of Python instead of a prompt; prog is the Program",
            ),
            *ONE_QEMU,
            *WALK,
        ),
        formats=("text",),
        passes_on=True,
    ),
    Command(
        "mcp",
        "serve the commands to an agent as tools of the Model Context Protocol, on standard input and output",
        "pvhdbg mcp --allow-run",
        "pvhdbg.mcp.server:mcp",
        (
            argument(
                "--allow-run",
                action="store_true",
                help="also start machines and let them run; without it only files are read: kernels, snapshots, traces",
            ),
        ),
        formats=("text",),
    ),
    Command(
        "config",
        "show the settings that hold, and the file or variable that each is from",
        "pvhdbg config",
        "pvhdbg.commands.settings:config",
    ),
    Command(
        "doctor",
        "show what is installed of all that pvhdbg uses, which commands need it, and how to get it",
        "pvhdbg doctor",
        "pvhdbg.commands.doctor:doctor",
    ),
    Command(
        "schema",
        "print the JSON schema of an answer, or list all schemas",
        "pvhdbg schema report",
        "pvhdbg.commands.schema:schema",
        (argument("name", metavar="NAME", nargs="?", help="the name in an answer's field `schema`: report, or pvhdbg/report/1"),),
    ),
    Command("rules", "list all rules", "pvhdbg rules", "pvhdbg.commands.rules:rules", live=True, live_example="rules"),
)

IN_SESSION: tuple[Command, ...] = (
    Command(
        "help",
        "list the commands, or describe one",
        "",
        "pvhdbg.commands.live:help",
        (argument("command", metavar="COMMAND", nargs="*", help="the command", completes="command"),),
        formats=("text",),
        live=True,
        live_example="help check",
    ),
    Command(
        "apropos",
        "list the commands and the rules that mention a word",
        "",
        "pvhdbg.commands.live:apropos",
        (argument("word", metavar="WORD", help="the word"),),
        formats=("text",),
        live=True,
        live_example="apropos paging",
    ),
)
