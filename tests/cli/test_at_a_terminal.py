"""What a terminal gets: lines of its width that end between words, a pager for what is longer, less with -q and more with -v."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.commands.table import COMMANDS
from pvhdbg.guests import path as guest
from pvhdbg.report.wrapping import columns, wrapped
from tests.support.cli_runner import HELLO, Cli
from tests.support.emulator import Terminal
from tests.support.programs import need
from tests.support.pseudo_terminal import openpty

CRASHERS = str(guest("crashers"))
REPORTS = (
    ("check", HELLO), ("elf", HELLO), ("why", CRASHERS), ("diff", HELLO, CRASHERS), ("info", HELLO), ("regs", "--bits", HELLO),
    ("memmap", HELLO), ("segments", HELLO), ("gdt", HELLO), ("rsdp", HELLO), ("disas", HELLO), ("pagewalk", HELLO, "0x100000"),
    ("fwcfg", HELLO), ("notes", HELLO), ("symbols", HELLO), ("trace", HELLO, "--what", "state", "--until", "5"), ("timeline", HELLO),
    ("rules",), ("explain", "PVH-TR-LIMIT"), ("config",), ("doctor",), ("schema",), ("guests", "--nonsense"),
)  # fmt: skip
_EACH = """
import sys
from pvhdbg.cli.program import main
for words in {lines!r}:
    print("\\x01", flush=True)
    try:
        main(list(words))
    except SystemExit:
        pass
"""


def at_width(lines: list[tuple[str, ...]], width: int, cli: Cli) -> list[str]:
    """What each command line prints at a terminal of that width."""
    ours, its = openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    env = {name: value for name, value in cli.env.items() if name not in ("COLUMNS", "LINES")}
    words = [sys.executable, "-c", _EACH.format(lines=lines)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=its, stderr=its, env={**env, "TERM": "xterm"}, cwd=cli.folder):
        os.close(its)
        data, deadline = b"", time.monotonic() + 40
        while True:
            assert time.monotonic() < deadline, data[-500:]
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    piece = os.read(ours, 1 << 16)
                except OSError:  # its other end is closed
                    break
                if not piece:
                    break
                data += piece
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r[^\n]*\r(?!\n)", "", data.decode())
    return [one.replace("\r\n", "\n") for one in text.split("\x01")[1:]]


def too_long(text: str, width: int) -> list[str]:
    """Lines that are longer than the terminal, and have a place where they could end before."""
    return [line for line in text.splitlines() if len(line) > width and len(line.split()) > 1 and not _one_word(line, width)]


def _one_word(line: str, width: int) -> bool:
    """Whether a word is as long as the room behind the line's indentation: it is not divided."""
    return max(map(len, line.split())) > width - (len(line) - len(line.lstrip())) - 2


@pytest.mark.boot
@pytest.mark.slow
@pytest.mark.parametrize("width", [50, 80])
def test_every_help_and_report_fits_the_terminal(width: int, cli: Cli) -> None:
    helps = [(*command.name.split(), "--help") for command in COMMANDS]
    lines = [("--help",), *helps, *REPORTS]
    shown = at_width(lines, width, cli)
    assert len(shown) == len(lines)
    assert {
        " ".join(words): too_long(text, width)[:3] for words, text in zip(lines, shown, strict=True) if too_long(text, width)
    } == {}
    for words, text in zip(lines, shown, strict=True):
        assert text.strip(), words
    # Words that the plain report has are whole in the narrow one: addresses above all.
    plain = cli("check", HELLO).ok().out
    narrow = set(shown[lines.index(("check", HELLO))].split())
    volatile = re.compile(r"/tmp/|\d+\.\d+ s")
    assert [
        word for word in re.findall(r"(?<!\S)0x[0-9a-f]+(?!\S)", plain) if word not in narrow and not volatile.search(word)
    ] == []


@given(st.lists(st.text("ab0x-/ ", max_size=30), max_size=6).map("\n".join), st.integers(20, 60))
def test_wrapping_changes_blanks_alone(text: str, width: int) -> None:
    found = wrapped(text, width)
    assert found.split() == text.split()
    assert too_long(found, width) == []


def test_colours_take_no_columns() -> None:
    text = "\x1b[31m" + "word " * 9 + "\x1b[0m"
    assert wrapped(text, 46) == text
    assert [columns(line) <= 20 for line in wrapped(text, 20).splitlines()] == [True] * 3


def test_a_line_of_two_columns_goes_on_indented() -> None:
    assert wrapped("  name  what it is and does\n", 20) == "  name  what it is\n    and does\n"
    assert wrapped("a   one two three four five six seven\n", 24).splitlines()[1].startswith("    ")


# --- the pager ----------------------------------------------------------------------------------------------------


def terminal(cli: Cli, *words: str, rows: int = 24, **env: str) -> Terminal:
    need("setsid")
    ours = {name: value for name, value in cli.env.items() if name not in ("COLUMNS", "LINES", "LESS", "PAGER")}
    given_env = {**ours, "XDG_STATE_HOME": str(cli.folder / "state"), "NO_COLOR": "1", **env}
    return Terminal([sys.executable, "-m", "pvhdbg", *words], given_env, str(cli.folder), columns=100, rows=rows)


def pager(cli: Cli, script: str) -> str:
    """A program of the test's own as $PAGER."""
    path = Path(cli.file("pager", f"#!/bin/sh\n{script}\n"))
    path.chmod(0o755)
    return str(path)


def test_long_help_goes_to_the_pager_and_what_fits_does_not(cli: Cli) -> None:
    mine = pager(cli, 'cat > paged; echo "LESS=$LESS" >> paged; echo done')
    with terminal(cli, "check", "--help", PAGER=mine) as at:
        at.until("done")
        assert at.ended() == 0
    said = (cli.folder / "paged").read_text()
    assert said.startswith("usage: pvhdbg check SUBJECT")
    assert said.endswith("LESS=FRX\n")
    (cli.folder / "paged").unlink()
    with terminal(cli, "config", PAGER=mine) as at:
        at.until("timeout")
        assert at.ended() == 0
    with terminal(cli, "check", "--help", PAGER="") as at:
        assert at.ended() == 0
    with terminal(cli, "check", "--help", PAGER="/nonexistent/pager") as at:
        assert at.ended() == 0
        assert "report.html" in at.text() or "FORMAT=FILE" in at.text()
    ran = cli("check", "--help", env={"PAGER": mine}).ok()  # no terminal: no pager
    assert "FORMAT=FILE" in ran.out
    assert not (cli.folder / "paged").exists()


@pytest.mark.boot
def test_the_pager_of_a_report_and_of_the_prompt(cli: Cli) -> None:
    """It ends early, it is interrupted, it is killed: the prompt and the terminal are as they were."""
    mine = pager(
        cli, 'head -n 1; echo paged; test "$0" != quick || exit 0; read -r line < /dev/tty; test "$line" != die || kill -9 $$'
    )
    with terminal(cli, "check", HELLO, PAGER=mine) as at:
        at.until("paged")
        at.press("\r")
        assert at.ended() == 0
    with terminal(cli, "repl", HELLO, PAGER=mine) as at:
        at.until("(pvh)")
        at.press("regs\r")
        at.until("paged")
        at.press("die\r")
        at.wait(lambda: at.text().endswith("(pvh)"), "the prompt")
        at.press("mode\r")
        at.until("CPL")
        at.press("regs\r")
        at.wait(lambda: at.text().count("paged") == 2, "the pager")
        at.press("\x03")  # Ctrl-C is the pager's, and ours stays
        at.wait(lambda: at.text().endswith("(pvh)"), "the prompt")
        at.press("quit\r")
        assert at.ended() == 0
        assert at.echoes()
    with terminal(cli, "repl", HELLO, "--batch", "-ex", "regs", PAGER=mine) as at:
        assert at.ended() == 0
        assert "paged" not in at.text()


@pytest.mark.boot
def test_a_signal_ends_the_pager_too(cli: Cli) -> None:
    mine = pager(cli, "echo paged; sleep 60")
    with terminal(cli, "repl", HELLO, PAGER=mine) as at:
        at.until("(pvh)")
        at.press("regs\r")
        at.until("paged")
        at.process.send_signal(signal.SIGTERM)
        assert at.ended() == 143


# --- -q and -v ----------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_quiet_is_the_result_alone(cli: Cli) -> None:
    ran = cli("check", HELLO, "-q").ok()
    assert len(ran.out.splitlines()) == 1
    assert ran.out.startswith("the hand-off conforms to the PVH boot ABI")
    assert ran.err == ""
    failing = cli("check", str(guest("bad_loader")), "--append", "break=cr0-pg", "--entry", "broken_entry", "-q")
    assert failing.err == "" or failing.code
    assert cli("elf", HELLO, "--quiet").ok().out.count("\n") == 1
    verdict = cli("why", CRASHERS, "-q").ok().out
    assert verdict.startswith("The CPU shut down with a triple fault")
    assert "Registers" not in verdict
    assert cli("diff", HELLO, HELLO, "-q").ok().out == "the same where it matters (exit 0)\n"
    assert json.loads(cli("check", HELLO, "-q", "--format", "json").ok().out)["verdicts"]  # a document is whole


@pytest.mark.boot
def test_verbose_tells_each_step_and_its_time(cli: Cli) -> None:
    ran = cli("check", HELLO, "-v").ok()
    steps = ran.err.splitlines()
    assert all(re.fullmatch(r"pvhdbg: +\d+\.\d\d s  .+", one) for one in steps), ran.err
    told = " ".join(steps)
    for words in ("starting qemu-system-x86_64: -kernel ", "is up, with tcg", "waiting for the guest to reach 0x100000", "in all"):
        assert words in told
    assert ran.out == cli("check", HELLO).ok().out or ran.out.splitlines()[-1].endswith("(exit 0)")
    assert re.fullmatch(r"pvhdbg: +\d+\.\d\d s  in all\n", cli("config", "-v").ok().err)
    cli("check", HELLO, "-q", "-v").complaint(2, "given together")


def test_each_help_says_what_they_mean() -> None:
    from pvhdbg.commands.line import parser_of

    for command in COMMANDS:
        text = " ".join(parser_of(command).format_help().split())
        assert "-q, --quiet print the result only" in text, command.name
        assert "-v, --verbose also say what is done and how long each step takes" in text, command.name
