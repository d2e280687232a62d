"""Names from files and lines of guests on a terminal and in the logs of continuous integration: they are text, and steer nothing."""

from pathlib import Path

import pytest

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import own_line, printable, safe
from pvhdbg.repl.serial import Follower
from pvhdbg.tracing.event import Changes, Event
from pvhdbg.tracing.queries import divergence
from tests.support.cli_runner import HELLO, Cli

NAME = b"pvh_start"
ESCAPES = b"p\x1b]0;x\x07"  # as long as that: sets the title of a terminal


@pytest.fixture
def hostile(cli: Cli) -> str:
    """The guest `hello` with a symbol whose name holds escapes."""
    data = Path(HELLO).read_bytes()
    assert data.count(NAME + b"\0") == 1
    return cli.file("hostile.elf", data.replace(NAME + b"\0", ESCAPES.ljust(len(NAME), b"x") + b"\0"))


@pytest.mark.boot
@pytest.mark.parametrize("asked", ["0x100000", "*", "p*"])
def test_symbols_of_a_machine(cli: Cli, hostile: str, asked: str) -> None:
    ran = cli("repl", hostile, "-ex", f"symbols {asked}", "-ex", "entry", "-ex", "disas", "-ex", "regs", "--batch")
    assert "\\x1b]0;x" in ran.out
    assert "\x1b" not in ran.out + ran.err
    assert "\x07" not in ran.out + ran.err


def test_register_names_of_a_saved_trace() -> None:
    one, two = (Event(0, 0x100000, Mode.PROTECTED, b"\x90", Changes({"\x1b[2J": value})) for value in (1, 2))
    parted = divergence([one], [two])
    assert parted is not None
    assert "\x1b" not in parted.why


@pytest.mark.parametrize("command", ["##[error]x", "##vso[task.complete]", "a ##[add-mask]b", "x##vso[y]"])
def test_workflow_commands_are_broken(command: str) -> None:
    for text in (safe(command), safe(command.encode()), printable(command)):
        assert "##[" not in text
        assert "##vso[" not in text


@pytest.mark.parametrize("line", [b"::error::forged", b"  ::set-output name=x::y", b"::add-mask::a"])
def test_a_guests_line_that_begins_like_a_command(tmp_path: Path, line: bytes) -> None:
    log = tmp_path / "serial"
    log.write_bytes(line + b"\n")
    (shown,) = Follower(log).lines()
    assert not shown.lstrip().startswith("::")
    assert own_line(safe("plain :: text")) == "plain :: text"
