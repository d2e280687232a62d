"""docs/python.md and docs/stability.md: the examples run, every command has its function, and the numbers are the program's."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import pvhdbg
from pvhdbg import errors
from pvhdbg.commands.table import COMMANDS
from pvhdbg.report.findings import VIOLATED
from tests.support.cli_runner import ROOT
from tests.test_site import script

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
WITHOUT = {"repl", "gdb", "gdb-path", "drgn", "mcp", "completion", "config", "schema", "rules", "sweep report"}


@pytest.mark.usefixtures("qemu")
def test_the_examples_run_and_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    pairs = re.findall(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(pairs) == PAGE.count("```python\n") == 4
    for code, shown in pairs:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        wanted = "".join("[^\n]*" if piece == "…" else re.escape(piece) for piece in re.split("(…)", shown))
        assert re.fullmatch(wanted, printed.getvalue()), printed.getvalue()


def test_every_command_of_use_to_a_program_is_a_function() -> None:
    functions = script("write_reference").functions()
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert [(command, name) for command, names in rows for name in re.findall(r"`(\w+)`", names)] == functions
    rest = re.findall(r"`(\w+)`", PAGE[PAGE.index("\nAlso: ") :])
    assert sorted([*rest, *(name for _, name in functions)]) == sorted(pvhdbg.__all__)
    found = {command for command, _ in functions}
    assert found | WITHOUT == {command.name for command in COMMANDS}
    assert found.isdisjoint(WITHOUT)


def test_exit_codes_are_those_that_are_promised() -> None:
    text = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| exit codes"))
    promised = {int(code) for code in re.findall(r"\b(\d+) ", row)}
    real = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PvhdbgError)}
    assert real | {0, VIOLATED, 70, 125, 4} == promised
