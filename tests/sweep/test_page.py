"""docs/sweeps.md: its command prints what it shows, and it names what there is."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pvhdbg.commands.toml_file import toml_document
from pvhdbg.guests import path as guest
from pvhdbg.sweep.axes import AXES
from pvhdbg.sweep.cell import FIELDS
from pvhdbg.sweep.plan import SETTINGS, planned
from tests.support.cli_runner import ROOT, Cli

PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


@pytest.mark.boot
def test_the_command_prints_what_is_shown(cli: Cli) -> None:
    for name in ("hello", "fragile"):
        shutil.copy(guest(name), cli.folder / f"{name}.elf")
    (shown,) = re.findall(r"^```\n\$ (.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    command, _, output = shown.partition("\n")
    assert cli(*shlex.split(command)[1:]).ok().out == output


def test_the_plan_is_one_and_each_key_is_explained(tmp_path: Path) -> None:
    (plan,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "sweep.toml").write_text(plan)
    assert planned(toml_document(str(tmp_path / "sweep.toml"), "a plan", ""), {}, "", "sweep.toml").count() == 20
    rows = "".join(line.partition("|")[2].partition("|")[0] for line in PAGE.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == {*(one.key for one in AXES), *SETTINGS, "exclude", "only"}
    fields = re.search(r"The fields of a cell are (.*?)\.", PAGE, re.DOTALL)
    assert fields is not None
    assert tuple(re.findall(r"`(\w+)`", fields[1])) == FIELDS
