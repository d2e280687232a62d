"""README.md as somebody new reads it: its links lead somewhere, its commands are commands, and what it shows is what is printed."""

import re
import shlex
from pathlib import Path

import pytest

from pvhdbg.commands.line import parse
from pvhdbg.rules.catalogue import RULES
from pvhdbg.version import VERSION
from tests.support.cli_runner import ROOT, Cli
from tests.support.defects import declared

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The headings' names, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("\\_", "_").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)<>\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there), target


def test_it_is_short_and_a_picture_of_it_is_there() -> None:
    assert len(README.splitlines()) <= 170
    assert {"docs/images/why.svg", "docs/images/report.png"} <= set(re.findall(r"^!\[[^]]+\]\((\S+)\)$", README, re.MULTILINE))


def _commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    lines = [line.removeprefix("$ ") for block in _blocks(text) for line in block.splitlines()]
    return [*(line for line in lines if line.startswith("pvhdbg ")), *re.findall(r"`(pvhdbg [a-z][^`\n]*)`", text)]


@pytest.mark.parametrize(
    ("page", "command"), sorted({(page.name, command) for page in PAGES for command in _commands(page)}), ids=lambda word: str(word)
)
def test_commands_are_commands(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    if words[-1] != "--help" and (len(words) > 1 or words[0] in ("rules", "gdb-path")):  # `pvhdbg check` alone names the command
        parse(words)


def test_its_numbers() -> None:
    assert re.findall(r"# all (\d+)", README) == [str(len(RULES))]
    assert VERSION in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    broken = [one for one in declared() if one.spoils]
    assert re.findall(r"out of \[(\d+)\]", README) == [str(len(broken))]


def _pieces(block: str) -> list[str]:
    """What is shown between the places that are left out."""
    shown = "\n".join(line for line in block.splitlines() if not line.startswith("$ "))
    return [piece.strip("\n") for piece in re.split(r"^…$", shown, flags=re.MULTILINE) if piece.strip()]


def _in_order(block: str, printed: str) -> None:
    at = 0
    for piece in _pieces(block):
        at = printed.find(piece, at)
        assert at >= 0, f"README shows, and this is not printed:\n{piece}\nbut:\n{printed}"


@pytest.mark.boot
def test_what_make_demo_prints(cli: Cli) -> None:
    block = next(block for block in _blocks(README) if block.startswith("VMM "))
    printed = cli("run", str(ROOT / "pvhdbg/guests/hello.elf"), "--batch").ok().out
    printed = re.sub(r"(?m)^kernel    \S*/pvhdbg/guests", "kernel    /home/you/pvhdbg/pvhdbg/guests", printed)
    if printed.splitlines()[0] != block.splitlines()[0]:  # another QEMU lays its memory out in another way
        assert printed.splitlines()[-1].split(":")[0] == block.splitlines()[-1].split(":")[0]
        return
    _in_order(block, printed)


def _shown(command: str) -> tuple[list[str], str]:
    """The command and its output of the page that shows one of a sample guest."""
    everywhere = [block for page in PAGES for block in _blocks(page.read_text(encoding="utf-8"))]
    block = next(block for block in everywhere if block.startswith(f"$ pvhdbg {command} pvhdbg/guests/"))
    words = shlex.split(block.splitlines()[0].removeprefix("$ pvhdbg "))
    return [str(ROOT / word) if word.startswith("pvhdbg/") else word for word in words], block


def test_what_elf_prints(cli: Cli) -> None:
    words, block = _shown("elf")
    _in_order(block, cli(*words).ok().out)


@pytest.mark.boot
def test_what_the_prompt_prints(cli: Cli) -> None:
    words, block = _shown("repl")
    _in_order(block, cli(*words).ok().out)
