"""Command lines: of the prompt, of the shell, and expressions. They are parsed and completed, and nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace

from fuzz.target import Form, Output, Target
from pvhdbg.commands import line as shell
from pvhdbg.commands import live
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.machine.expression import evaluate
from pvhdbg.repl import lines, own_commands
from pvhdbg.rules.examples import at_entry

_REGISTERS = at_entry().snapshot().registers


def _known(name: str) -> int:
    if name != "start":
        raise BadInput(f"there is no symbol {name}", "list them")
    return 0x100000


_SESSION = SimpleNamespace(
    evaluate=None, registers=lambda: _REGISTERS, placement=SimpleNamespace(address_of=_known, physical_of=_known)
)


def _run(data: bytes) -> Iterator[Output]:
    text = data.decode("utf-8", "surrogateescape")
    for line in text.splitlines()[:8]:
        for answer in (_prompt, _expression, _shell):
            try:
                yield Output(Form.TEXT, safe(answer(line)))
            except PvhdbgError as error:
                yield Output(Form.TEXT, safe(f"{error.what} {error.todo}"))


def _prompt(text: str) -> str:
    if lines.is_comment(text):
        return ""
    live.complete(None, text, own_commands.ALL)
    line = lines.parse(text)
    command, rest = live.find(line.command, own_commands.ALL)
    return f"{command.name} {live.values(command, rest)} {line.shell} {line.file}"


def _expression(text: str) -> str:
    return f"{evaluate(_SESSION, text):#x}"


def _shell(text: str) -> str:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        try:
            command, values = shell.parse(text.split(" "))
        except SystemExit as end:  # of --help
            return f"{end.code} {out.getvalue()}"
    return f"{command.name} {values}"


def _seeds() -> Iterator[bytes]:
    for text in (
        "regs --bits | grep cr0", "x/4xw $rsp+0x10 > file", "b start", "until long-mode", "trace --what pc --for 5 -o a", "help check",
        "symbols '*'", "info registers rax", "check --select PVH-CR0 SI-MM", "start+0x10-$rip", "elf vmlinux --as qemu --format json",
        "check k --report json=a --report sarif=b -- -m 64M", "apropos cpu", "monitor info mtree", "!ls", "# x", "explain PVH-CR0",
    ):  # fmt: skip
        yield text.encode()


TARGET = Target(
    _run,
    _seeds,
    (
        b"--help",
        b"--format",
        b"--select ",
        b"--report json=",
        b" -- ",
        b" | ",
        b" >> ",
        b"''",
        b"%(prog)s",
        b"$cr0",
        b"x/",
        b"@file",
        b"\xc2\xb2",
    ),
)
