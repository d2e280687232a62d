"""Command lines as values: what argparse alone would get wrong."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pvhdbg.commands.declare import Command, options_of
from pvhdbg.commands.line import parse
from pvhdbg.commands.overview import TOPICS, by_topic, overview
from pvhdbg.commands.table import COMMANDS, LIVE
from pvhdbg.errors import BadInput
from pvhdbg.repl import own_commands
from tests.support.cli_runner import ROOT


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--select", "PVH-CR0", "si-mm", "--ignore", "SI-MM-COUNT", "vmlinux"],
        ["check", "vmlinux", "--select", "PVH-CR0", "si-mm", "--ignore", "SI-MM-COUNT"],
        ["check", "--select", "PVH-CR0,si-mm", "vmlinux", "--ignore=SI-MM-COUNT"],
        ["check", "--select", "PVH-CR0", "--select", "si-mm", "--ignore", "SI-MM-COUNT", "vmlinux"],
    ],
)
def test_rules_are_chosen_in_every_way_of_writing_it(words: list[str]) -> None:
    _, values = parse(words)
    assert values["subject"] == "vmlinux"
    assert values["select"] == ["PVH-CR0", "si-mm"]
    assert values["ignore"] == ["SI-MM-COUNT"]


def test_what_follows_two_dashes_is_qemus() -> None:
    _, values = parse(["run", "vmlinux", "-m", "1G", "--", "-m", "2G", "--", "x"])
    assert (values["memory"], values["extra"]) == ("1G", ("-m", "2G", "--", "x"))
    with pytest.raises(BadInput):
        parse(["attach", ":1", "--", "-m", "2G"])


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["snapshot"], ["snapshot", "load"], ["check"], ["check", "a", "b"], ["check", "a", "--leav", "x"], ["explain"]],
)
def test_words_that_do_not_fit(words: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        parse(words)
    assert "--help" in error.value.todo


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_and_an_example_that_parses(command: object) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse([*command.name.split(), "--help"])  # type: ignore[attr-defined]
    assert leaving.value.code == 0
    assert parse(shlex.split(command.example)[1:])[0] is command  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "todo"),
    [
        (["chekc"], "did you mean check?"),
        (["snapshot"], "did you mean snapshot save or snapshot export?"),
        (["snapshot", "sve", "vmlinux"], "did you mean snapshot save"),
        (["trace", "qurey", "boot.jsonl", "cr0"], "did you mean trace query?"),
        (["trace", "vmlinux", "boot.jsonl"], "see: pvhdbg trace --help"),
        (["check", "vmlinux", "--machin", "q35"], "did you mean --machine?"),
        (["check", "vmlinux", "--machin=q35"], "did you mean --machine?"),
        (["check", "vmlinux", "-device", "pvpanic"], "give QEMU's own options at the end, after --;"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_was_meant(words: list[str], todo: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(words)
    assert error.value.todo.startswith(todo)
    assert len(error.value.what) < 80


def _printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        parse(list(words))
    assert leaving.value.code == 0
    return capsys.readouterr().out


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert _printed(capsys, "help") == _printed(capsys, "--help")
    assert _printed(capsys, "help", "trace", "query") == _printed(capsys, "trace", "query", "--help")


def test_a_family_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = _printed(capsys, "snapshot", "--help")
    assert "snapshot save " in text
    assert "snapshot export " in text
    assert "trace query" not in text
    assert "trace export " in _printed(capsys, "trace", "--help")


def test_the_usage_names_what_must_be_given_and_the_options_stand_by_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    usage = "usage: pvhdbg trace export FILE --as {perfetto,tenet,drcov,csv,folded} -o FILE [OPTION …]\n"
    assert _printed(capsys, "trace", "export", "--help").startswith(usage)
    text = _printed(capsys, "check", "--help")
    assert text.startswith("usage: pvhdbg check SUBJECT [OPTION …] [-- QEMU's own]\n")
    headings = ["judging:", "QEMU, when a kernel file is booted:", "reaching the entry:", "output:"]
    places = [text.index(f"\n{heading}\n") for heading in headings]
    assert text.index("\n  --expect") < min(places)
    assert text.index("\n  --strict") > text.index("\njudging:\n")
    own = _printed(capsys, "probe", "--help")
    assert own.index("\n  --kernel") < own.index("\njudging:\n")  # another thing than the --kernel of a gdbstub


def test_the_overview_has_every_command_once_below_a_topic() -> None:
    shown = [command.name for _, commands in by_topic() for command in commands]
    assert sorted(shown) == sorted(command.name for command in COMMANDS)
    assert {name for _, names in TOPICS for name in names} <= set(shown)


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_the_overview_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    commands = overview().partition("\njudge a hand-off:\n")[2]
    assert max(map(len, commands.splitlines())) <= columns
    assert f"  {'snapshot export':<16} " in commands


# --- options ------------------------------------------------------------------------------------------------------

BY_THE_FACE = {"format", "output", "report", "color", "bisect", "exit"}  # how an answer is shown is not the command's concern


def _fields(kind: Any, own: bool = False) -> set[str]:
    """The names of a tuple of options, with those of the tuples inside it unless only its `own` are asked for."""
    found: set[str] = set()
    for name in kind._fields:
        part = kind._field_defaults.get(name)
        if not hasattr(part, "_fields"):
            found.add(name)
        elif not own:
            found |= _fields(type(part))
    return found


def _names(command: Command, live: bool) -> set[str]:
    """What argparse calls the arguments of a command."""
    parser = argparse.ArgumentParser(add_help=False)
    return {parser.add_argument(*one.names, **one.options).dest for one in command.arguments_for(live)}


EVERYWHERE = (*COMMANDS, *LIVE, *own_commands.OWN)


@pytest.mark.parametrize("command", [one for one in EVERYWHERE if one.name != "repl"], ids=lambda command: command.name)
def test_every_argument_is_an_option_of_the_commands_own_type(command: Command) -> None:
    kind = command.loaded().options
    known = _fields(kind)
    named = (_names(command, False) if command.example else set()) | (_names(command, True) if command.live else set())
    assert named - BY_THE_FACE <= known
    assert _fields(kind, own=True) <= named | {"extra"}
    assert "extra" in known or not command.passes_on


def test_a_line_becomes_options_of_its_type() -> None:
    command, values = parse(["trace", "vmlinux", "--what", "pc", "--milestone", "a", "--milestone", "b", "--", "-m", "1G"])
    options = options_of(command.loaded().options, values)
    assert (options.about.subject, options.about.launch.extra) == ("vmlinux", ("-m", "1G"))
    assert (options.trace.what, options.trace.milestone, options.trace.engine) == ("pc", ("a", "b"), "auto")
    assert options.about.spec is None
    assert options.about.revision == "v1"


TYPOS = """
from pvhdbg.commands.handoff import CheckOptions
from pvhdbg.commands.trace import TraceCommandOptions
from pvhdbg.machine.subject_kind import SubjectKind

def wrong(options: TraceCommandOptions, check: CheckOptions) -> bool:
    if options.trace.engnie == "log":
        return True
    return options.trace.engine == "lgo" or SubjectKind.KERNAL.runs or check.expct is not None
"""


@pytest.mark.slow
def test_a_type_checker_sees_a_mistyped_option(tmp_path: Path) -> None:
    (tmp_path / "typos.py").write_text(TYPOS)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), "typos.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, timeout=300, check=False
    )
    for words in (
        'has no attribute "engnie"',
        "Non-overlapping equality check",
        'has no attribute "KERNAL"',
        'has no attribute "expct"',
    ):
        assert words in done.stdout, done.stdout + done.stderr
