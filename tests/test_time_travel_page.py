"""docs/time-travel.md is a recording, as docs/tour.md is: each death of `crashers` is walked back to its cause at a true terminal.

`PVHDBG_TOUR=write` writes it anew. Elsewhere the page has to show the same lines, with answers that differ in numbers only.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.kernel.image import open_kernel
from tests.support.cli_runner import Cli, scratch
from tests.support.emulator import PROMPT, Terminal
from tests.support.programs import need

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "time-travel.md"
CRASHERS = str(guest("crashers"))
SHOWN = "pvhdbg/guests/crashers.elf"
HEAD = """# Back from a death to its cause

pvhdbg goes back by booting the kernel again: by a deterministic clock every boot is the same, instruction by instruction, and a machine is
stopped before exactly the instruction that is wanted. Instructions are numbered from the entry on, which is 0; all iterations of a REP
are one. Each move takes one boot to that place, and the new machine takes the place of the old one, with its breakpoints.

| line | goes to |
|---|---|
| `goto N`, `goto SYMBOL`, `goto SYMBOL#3` | an instruction by its number, or a place, the first or the third time |
| `goto long`, `goto cr0.pg` | the first instruction in a mode; a milestone of `pvhdbg trace` |
| `goto death`, `goto death-3` | the last instruction that began before the guest ended, or one before it |
| `goto clock:N` | where QEMU's clock counted N instructions since the entry: it counts each iteration of a REP |
| `back`, `back N` | one instruction back, or several |
| `reverse-continue` | the last hit of a breakpoint before this place |
| `last-write $rsp`, `last-write *$rsp:8`, `last-write SYMBOL` | right behind the last instruction that wrote the register, or the memory there |
| `back-to-call` | the call that the current function was entered by |

They work at the prompt of `pvhdbg goto`, `repl` and `run`, where pvhdbg started QEMU, and in GDB as `pvh goto` and so on after `pvh start`,
which starts the kernel there. In GDB, which is then connected to one machine after the other, `pvh continue` runs on by the same clock. With
`--deterministic` the prompt's first machine runs by that clock, too: then `continue` and `until` know where they stop. Without it, the first
move is a `goto`. A step there takes an interrupt that is due, as the guest would; `back` compares the place with that of an
undisturbed boot, and says where they differ.

A machine at somebody else's gdbstub does not go back: pvhdbg cannot boot it again. Neither do KVM and a machine with several CPUs. Disks,
networks and input on the serial port answer by the host's clock, and are refused.

The rest of this page is a recording: `tests/test_time_travel_page.py` types these lines at a terminal. The guest `crashers` dies in the way
that its command line names ([sample-guests.md](sample-guests.md)).
"""

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
        old = PAGE.read_text() if PAGE.exists() else ""
        sections = {one.split("\n")[0]: one for one in re.split(r"\n(?=## )", old)[1:]}
        sections[f"## {title}"] = found
        PAGE.write_text("\n".join([HEAD, *(sections[name] for walk in WALKS if (name := f"## {walk[0]}") in sections)]))
    page = {one.split("\n")[0]: one for one in re.split(r"\n(?=## )", PAGE.read_text())}
    assert numberless(page[f"## {title}"]).strip() == numberless(found).strip()


def test_the_page_begins_as_it_is_declared_here() -> None:
    assert PAGE.read_text().startswith(HEAD)
