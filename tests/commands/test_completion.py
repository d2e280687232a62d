"""Completion: what may come next by the declarations, and the scripts in real shells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvhdbg.commands.completion import FILES, next_words
from pvhdbg.commands.table import COMMANDS
from tests.support.cli_runner import HELLO, ROOT
from tests.support.programs import need
from tests.support.pseudo_terminal import openpty


def words(line: str) -> list[str]:
    """What may come next behind a line; its last word is completed."""
    *before, word = line.split(" ")
    return [one for one, _ in next_words(before, word)]


def test_every_command_is_offered_word_by_word() -> None:
    assert set(words("")) == {command.name.split()[0] for command in COMMANDS}
    assert words("che") == ["check"]
    assert words("help sna") == ["snapshot"]
    assert words("snapshot ") == ["save", "export"]
    for command in COMMANDS:
        *before, last = command.name.split()
        assert last in words(" ".join([*before, last]))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_offered(command: object) -> None:
    offered = words(f"{command.name} --")  # type: ignore[attr-defined]
    for one in command.arguments_for(live=False):  # type: ignore[attr-defined]
        long = [name for name in one.names if name.startswith("--")]
        assert set(long) <= set(offered)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("check --machine ", ["pc", "q35", "microvm"]),
        ("check vmlinux --spec ", ["draft-a", "v0", "v1"]),
        ("check vmlinux --format js", ["json"]),
        ("check vmlinux --report ju", ["junit="]),
        ("explain PVH-TR-L", ["PVH-TR-LIMIT"]),
        ("check vmlinux --select PVH-TR-L", ["PVH-TR-LIMIT"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("schema rep", ["report"]),
        ("check ", [FILES]),
        ("check vmlinux ", []),
        ("check --memory 1G ", [FILES]),
        ("check vmlinux --initrd ", [FILES]),
        ("run vmlinux -- -device ", [FILES]),
        ("trace export t.jsonl --as te", ["tenet"]),
        (f"wait {HELLO} --until pvh_", ["pvh_start"]),
        ("wait vmlinux --until lo", ["long"]),
        ("gdb-path ", []),
        ("nonsense ", []),
    ],
)
def test_what_is_offered(line: str, offered: list[str]) -> None:
    assert words(line) == offered


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `pvhdbg` is this checkout."""
    program = tmp_path / "bin" / "pvhdbg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pvhdbg "$@"\n')
    program.chmod(0o755)
    (tmp_path / "a kernel.elf").touch()
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "TERM": "dumb"}
    return {**os.environ, **home, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def shell(path: dict[str, str], *command: str) -> list[str]:
    done = subprocess.run(command, env=path, cwd=path["HOME"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_bash(path: dict[str, str]) -> None:
    ask = 'source <(pvhdbg completion bash); for words in "$@"; do read -ra COMP_WORDS <<<"$words"; [[ $words == *" " ]] && COMP_WORDS+=("");'
    ask += 'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _pvhdbg; printf "%s\\n" "${COMPREPLY[@]}" --; done'
    found = shell(path, "bash", "-c", ask, "bash", "pvhdbg che", "pvhdbg check a", "pvhdbg trace export t.jsonl --as te")
    assert found == ["check", "--", "a kernel.elf", "--", "tenet", "--"]


def test_fish(path: dict[str, str]) -> None:
    need("fish")
    ask = "pvhdbg completion fish | source; complete -C 'pvhdbg che'; complete -C 'pvhdbg check a'; complete -C 'pvhdbg check v --spec '"
    check, kernel, *specs = shell(path, "fish", "-N", "-c", ask)
    assert check.split("\t")[0] == "check"
    assert "judge" in check
    assert kernel.split("\t")[0].replace("\\", "") == "a kernel.elf"
    assert specs == ["draft-a", "v0", "v1"]


def test_zsh(path: dict[str, str]) -> None:
    """At a terminal, since zsh completes only there: Tab completes the words, and the line is run by a function that prints it."""
    need("zsh")
    here, there = openpty()
    begin = "autoload -U compinit; compinit -u -D; PS1='> '; unsetopt beep; source <(pvhdbg completion zsh); unsetopt zle_bracketed_paste\n"
    with subprocess.Popen(
        ["zsh", "-f", "-i"], env=path, cwd=path["HOME"], stdin=there, stdout=there, stderr=there, start_new_session=True
    ):
        os.close(there)
        os.write(here, f"{begin}print rea''dy\n".encode())
        _until(here, b"ready")
        os.write(here, b"pvhdbg ch\t\x01print -r -- \x05don''e\n")
        seen = _until(here, b"done\r")
        os.write(here, b"exit\n")
        os.close(here)
    assert b"pvhdbg check" in seen


def _until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(terminal, 4096)
    return seen
