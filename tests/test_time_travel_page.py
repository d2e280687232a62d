"""docs/time-travel.md is a recording, as docs/tour.md is: each death of `crashers` is walked back to its cause at a true terminal.

`PVHDBG_TOUR=write` writes the walks anew. Elsewhere the page has to show the same lines, with answers that differ in numbers only.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.kernel.image import open_kernel
from tests.support.cli_runner import ROOT, Cli, scratch
from tests.support.emulator import PROMPT, Terminal
from tests.support.programs import need

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

PAGE = ROOT / "docs" / "time-travel.md"
CRASHERS = str(guest("crashers"))
SHOWN = "pvhdbg/guests/crashers.elf"
HEAD = PAGE.read_text().partition("\n## ")[0]  # before the first walk the page is written by hand

WALKS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "A push onto a stack that is not there",
        "wild-esp",
        "death",
        (
            ("The last instruction is a push. Who gave the stack pointer its value?", "last-write $esp"),
            ("", "back"),
            ("That is the cause: an address without memory. The instruction before it turned paging on, so it cannot be lost:", "back"),
        ),
    ),
    (
        "Page tables that do not map the code",
        "page-fault",
        "death",
        (
            ("The last instruction that began turned paging on; the next one could not be fetched. `cr3` was loaded before:", "back 3"),
            ("Who filled the table?", "last-write page_directory:4096"),
            ("No instruction did: that is the cause.", ""),
        ),
    ),
    (
        "A value that an MSR does not accept",
        "wrmsr",
        "death",
        (("Who wrote the value?", "last-write $eax"), ("", "back")),
    ),
    (
        "A halt with interrupts off",
        "hlt",
        "death",
        (("", "back"),),
    ),
    (
        "A jump into memory that was never written",
        "zeros",
        "0x400000",
        (
            ("This guest does not end: `00 00` is an `add`, up to the end of memory. What led there?", "back"),
            ("", "last-write $ecx"),
            ("", "back"),
        ),
    ),
    (
        "A jump to an address that nothing maps yet",
        "virtual-address",
        "{mapped_later}",
        (("", "back"), ("", "back")),
    ),
    (
        "An endless loop",
        "endless-loop",
        "endless_loop#1000",
        (("It has run a thousand times. How was it entered?", "break print"), ("", "reverse-continue"), ("", "back-to-call"),
         ("", "goto endless_loop"), ("", "back")),
    ),
)  # fmt: skip


@contextmanager
def at_terminal(crash: str, place: str) -> Iterator[Terminal]:
    need("setsid")
    with scratch() as folder:
        cli = Cli(folder)
        words = [sys.executable, "-m", "pvhdbg", "goto", CRASHERS, place, "--append", f"crash={crash}"]
        env = {**cli.env, "XDG_STATE_HOME": str(folder / "state"), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
        with Terminal(words, env, str(ROOT)) as at:
            yield at
            at.press("quit\r")
            assert at.ended() == 0


def mapped_later() -> str:
    """The address that `virtual_address` jumps to: the instruction behind the jump, where it is linked."""
    with open_kernel(CRASHERS) as image:
        return hex(0xC0000000 + image.symbols().physical_address("virtual_address") + 7)


def walked(title: str, crash: str, place: str, lines: tuple[tuple[str, str], ...]) -> str:
    """A walk as a section of the page."""
    place = place.format(mapped_later=mapped_later())
    parts = [f"## {title}"]
    with at_terminal(crash, place) as at:
        seen = f"$ pvhdbg goto {SHOWN} {place} --append crash={crash}\n{at.prompt(40)}".rstrip()
        for text, line in lines:
            if text:
                parts += [f"```\n{seen}\n```", text]
                seen = ""
            if line:
                answer = f"{PROMPT}{line}\n{at.enter(line, 40)}".rstrip()
                seen = f"{seen}\n{answer}" if seen else answer
        parts += [f"```\n{seen}\n```"] if seen else []
    return "\n\n".join(parts).replace(CRASHERS, SHOWN).replace(f"{ROOT}/", "") + "\n"


def numberless(text: str) -> str:
    """Without numbers of instructions, addresses and code, which differ from one build of the guest to the next."""
    text = re.sub(r"(?<=: ) (?:[0-9a-f]{2} )+ +", " ", text)
    return re.sub(r"instruction [\d,]+|\$?0x[0-9a-f]+", "#", text)


@pytest.mark.parametrize(("title", "crash", "place", "lines"), WALKS)
def test_each_death_is_walked_back_to_its_cause(title: str, crash: str, place: str, lines: tuple[tuple[str, str], ...]) -> None:
    found = walked(title, crash, place, lines)
    if os.environ.get("PVHDBG_TOUR") == "write":
        sections = {one.split("\n")[0]: one for one in re.split(r"\n(?=## )", PAGE.read_text())[1:]}
        sections[f"## {title}"] = found
        PAGE.write_text("\n".join([HEAD, *(sections[name] for walk in WALKS if (name := f"## {walk[0]}") in sections)]))
    page = {one.split("\n")[0]: one for one in re.split(r"\n(?=## )", PAGE.read_text())}
    assert numberless(page[f"## {title}"]).strip() == numberless(found).strip()
