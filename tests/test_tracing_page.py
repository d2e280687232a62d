"""docs/tracing.md and docs/recorded-boots.md: their commands are run one after the other, and print what stands there; lines of a
trace are valid ones.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.report.exports.catalogue import FORMATS
from pvhdbg.tracing.trace_file import decode
from tests.support.cli_runner import ROOT, Cli
from tests.support.schemas import validator

PAGE = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
BOOTS = (ROOT / "docs" / "recorded-boots.md").read_text(encoding="utf-8")
# What is another on another machine or with another QEMU: how fast it was, how long the VMM's name is, and what its firmware does.
VARIES = re.compile(
    r" *-?[\d,]+  — (?:firmware|option ROM): [\d,]+ instructions|[\d,]+ +[\d.]+%  (?:firmware|option ROM)|[\d.]+%  (?:entry|long mode)$|"
    r"[\d.]+ s, [\d,]+ a second|: \d+ bytes|QEMU [\d.]+(?: \([^)]*\))?|[\d,]+ blocks|eflags [0-9a-f]+|r[sd][ip] [0-9a-f]+",
    re.MULTILINE,
)


def _blocks(page: str = PAGE) -> list[str]:
    return re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.boot
@pytest.mark.parametrize("page", [PAGE, BOOTS], ids=["tracing", "recorded-boots"])
def test_what_its_commands_print(cli: Cli, page: str) -> None:
    for guest in ("long_mode", "crashers"):
        shutil.copy(guests.path(guest), cli.folder)
    shown = [part for block in _blocks(page) for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert len(shown) > 5
    for part in shown:
        command, _, output = part.partition("\n")
        program, *words = shlex.split(command)
        assert program == "pvhdbg"
        printed = cli(*words).ok(1 if words[:2] == ["trace", "diff"] or "the boots part" in output else 0).out
        printed = re.sub(r"^note: QEMU .* has a bug that looks like the guest's.*\n", "", printed, flags=re.MULTILINE)
        assert VARIES.sub("-", printed) == VARIES.sub("-", output), command


def test_its_lines_of_a_trace_are_valid() -> None:
    (lines,) = (block for block in _blocks() if block.startswith("{"))
    for line in lines.splitlines():
        validator("trace").validate(json.loads(line))
    assert len({type(record) for record in decode(lines.splitlines(True))}) == len(validator("trace").schema["oneOf"])


def test_it_tells_of_every_format() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE[PAGE.index("## In other tools") :], re.MULTILINE)) == set(FORMATS)


def test_the_files_that_it_names_are_there() -> None:
    for path in re.findall(r"`((?:tests|pvhdbg)/[\w./-]+\.\w+)`", PAGE):
        assert Path(ROOT, path).exists(), path
