"""docs/comparison.md: what shows a row is a command that runs, on a sample guest in place of `vmlinux`, or a test that exists."""

import re
import shlex
from pathlib import Path

import pytest

from pvhdbg.commands.declare import Context
from pvhdbg.commands.line import parse
from pvhdbg.errors import PvhdbgError
from pvhdbg.guests import path as guest
from tests.support.cli_runner import ROOT, Cli

PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE[PAGE.index("|---|") :].splitlines()[1:] if line.startswith("|")]
TARGETS = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
# What the sample guest `long_mode` has in place of a kernel's own names.
INSTEAD = {"vmlinux": str(guest("long_mode")), "rest_init": "in_long_mode", "0x3000": "0x108000", "boot_params:8": "0x108000:4"}
REFUSED = {"PVH-NOTHING"}  # the row is about the error


def shown_by(row: list[str]) -> list[str]:
    return re.findall(r"`([^`]+)`", row[-1])


def words_of(command: str) -> list[str]:
    return [
        INSTEAD.get(word, re.sub(r"^(watch|until) (\S+)$", lambda m: f"{m[1]} {INSTEAD.get(m[2], m[2])}", word))
        for word in shlex.split(command)[1:]
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_row_is_shown_by_something_that_exists(row: list[str]) -> None:
    assert len(row) == 5
    assert not re.search(r"\bnot yet\b|\bnot described\b|^no$", row[3])
    for one in shown_by(row) or pytest.fail("nothing shows it"):
        if one.startswith("make "):
            assert one.removeprefix("make ") in TARGETS
        elif one.startswith("tests/"):
            assert "\ndef test_" in (ROOT / one).read_text(encoding="utf-8")
        else:
            assert one.startswith("pvhdbg ")


@pytest.mark.boot
@pytest.mark.gdb
def test_the_commands_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process where that can be done. Rows that name a test of their own have it run them."""
    monkeypatch.chdir(tmp_path)
    _run(["trace", INSTEAD["vmlinux"], "--what", "state", "--until", "long", "-o", "boot.jsonl"])
    ran = 0
    for row in ROWS:
        shown = shown_by(row)
        if any(one.startswith("tests/") for one in shown):
            continue
        for command in shown:
            if not command.startswith("pvhdbg "):
                continue
            words = words_of(command)
            ran += 1
            if words[0] in ("repl", "completion"):
                cli(*words, *(["--batch"] if words[0] == "repl" else [])).ok()
            elif REFUSED & set(words):
                with pytest.raises(PvhdbgError, match=words[1]):
                    _run(words)
            else:
                assert _run(words)
    assert ran >= 15


def _run(words: list[str]) -> str:
    from pvhdbg.report.style import PLAIN

    command, values = parse(words)
    return command(values, Context()).render(str(values.get("format", "text")), PLAIN)
