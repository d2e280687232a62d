"""docs/sample-guests.md: every command that it shows is run, and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pvhdbg import guests
from tests.support.cli_runner import ROOT

PAGE = (ROOT / "docs" / "sample-guests.md").read_text()
GENERATED = "broken_notes"
ELSEWHERE = {"bad_loader", "fragile", "probe"}  # guests that have pages of their own
LONGEST = 30


def commands() -> list[tuple[str, list[str]]]:
    """Each command of a console block with the lines that are shown of its output."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def blocks() -> dict[str, list[tuple[str, list[str]]]]:
    """Commands by the folder that they write to, those that need a file after those that make it."""
    grouped: dict[str, list[tuple[str, list[str]]]] = {}
    for command, lines in commands():
        key = GENERATED if f"build/{GENERATED}" in command else command
        grouped.setdefault(key, []).append((command, lines))
    return grouped


def runs(command: str, lines: list[str], made: Path) -> None:
    script = f'pvhdbg() {{ "{sys.executable}" -m pvhdbg "$@"; }}\npython3() {{ "{sys.executable}" "$@"; }}\nexport PYTHONPATH=.\n'
    here = command.replace(f"build/{GENERATED}", str(made))
    ran = subprocess.run(
        ["bash", "-c", script + here], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST, cwd=ROOT
    )  # fmt: skip
    shown = ran.stdout.replace(str(made), f"build/{GENERATED}").replace("\r", "").splitlines()
    at = 0
    for line in lines:
        wanted = re.compile(".*?".join(re.escape(part) for part in line.split("…")))
        while at < len(shown) and not wanted.fullmatch(shown[at]):
            at += 1
        assert at < len(shown), f"{command}\ndoes not print: {line}\nbut:\n{ran.stdout}"
        at += 1


@pytest.mark.boot
@pytest.mark.parametrize("group", blocks())
def test_a_command_prints_what_is_shown(group: str, tmp_path: Path) -> None:
    for command, lines in blocks()[group]:
        assert lines, f"{command}: the page shows nothing of its output"
        runs(command, lines, tmp_path / "made")


def test_the_page_has_a_section_for_every_guest_and_for_nothing_else() -> None:
    sections = set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))
    assert sections - set(guests.names()) == {GENERATED}
    assert set(guests.names()) - sections <= ELSEWHERE


@pytest.mark.parametrize("source", sorted(ROOT.glob("sample_guests/*/*.S")), ids=lambda source: str(source.stem))
def test_a_guest_is_one_folder_and_one_source_that_says_what_it_shows(source: Path) -> None:
    assert source.parent.name == source.stem
    assert [path.name for path in source.parent.glob("*.S")] == [source.name]
    header = source.read_text().split("*/", 1)[0]
    assert header.startswith(f"/* {source.stem}: ")
    assert len(header.splitlines()) > 3


def test_the_choices_that_the_page_names_are_those_of_the_sources() -> None:
    for guest, option in (("crashers", "crash"), ("other_protocols", "as")):
        source = (ROOT / "sample_guests" / guest / f"{guest}.S").read_text()
        choices = re.findall(r"^ +CHOICE +([\w-]+),", source, re.MULTILINE)
        section = PAGE.split(f"\n## {guest}\n")[1].split("\n## ")[0]
        for choice in choices:
            assert f"`{choice}`" in section or f"{option}={choice}" in section, choice
