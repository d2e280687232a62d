"""docs/stress.md: its commands print what it shows, and it names what there is."""

import re
import shlex
import shutil

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.stress.catalogue import MUTATIONS
from tests.support.cli_runner import ROOT, Cli

PAGE = (ROOT / "docs" / "stress.md").read_text(encoding="utf-8")
SHOWN = [part for block in re.findall(r"^```\n(\$ .*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for part in block.split("$ ")[1:]]


@pytest.mark.boot
@pytest.mark.parametrize("part", SHOWN, ids=lambda part: str(part).partition("\n")[0][-30:])
def test_a_command_prints_what_is_shown(cli: Cli, part: str) -> None:
    shutil.copy(guest("fragile"), cli.folder)
    command, _, output = part.partition("\n")
    program, *words = shlex.split(command)
    assert program == "pvhdbg"
    printed = cli(*words).ok(1).out.splitlines()
    at = 0
    for line in output.splitlines():
        wanted = re.compile(".*?".join(re.escape(piece) for piece in line.split("…")))
        while at < len(printed) and not wanted.fullmatch(printed[at]):
            at += 1
        assert at < len(printed), f"not printed: {line}\n" + "\n".join(printed)
        at += 1


def test_it_shows_commands_and_names_mutations_that_there_are() -> None:
    assert len(SHOWN) == 2
    ids = {one.id for one in MUTATIONS}
    named = set(re.findall(r"`((?:cmdline|version|place|module|esp|rsdp|cr2|ram)-[a-z0-9-]+)`", PAGE))
    assert named
    assert named <= ids
