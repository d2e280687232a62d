"""docs/tour.md is a recording: these walks are typed at a true terminal, and what is seen there is the page.

`PVHDBG_TOUR=write` writes it anew. Elsewhere the page has to tell of the same walk: the same lines typed, and answers of the same
words, where numbers, and what differs from one kernel or QEMU to the next, may differ.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvhdbg.guests import path as guest
from tests.support.cli_runner import ROOT, Cli, Machine, scratch
from tests.support.emulator import PROMPT, Terminal
from tests.support.programs import need

PAGE = ROOT / "docs" / "tour.md"
HEAD = PAGE.read_text().partition("\n## ")[0]  # before the first walk the page is written by hand

GUEST = str(guest("long_mode"))
GUEST_WALK = (
    (
        """
## From the reset vector to the first 64-bit instruction

```
$ qemu-system-x86_64 -kernel pvhdbg/guests/long_mode.elf -nic none -display none -S -s &
```

`attach` lets the firmware run, stops at the PVH entry, and reports. At a terminal it then gives a prompt.
""",
        None,
    ),
    ("The current place, and how the entry was found:", "entry"),
    ("", "mode"),
    (
        "The guest will switch modes. `until` runs from one place where the mode can change to the next. At a terminal each stop shows "
        "its context: what changed, the code, the stack with names.",
        "until paging",
    ),
    ("From here on, the next instruction is enough:", "set context off"),
    ("What changed since the last stop is marked:", "regs | head -n 16 | tail -n 11"),
    ("Paging is on, but the code is still 32-bit code, until the next load of CS:", "until long-mode"),
    ("", "mode | head -n 1"),
    ("", "gdt"),
    ("`disas` uses the CPU's mode, not the file's class:", "disas/4"),
    ("", "pagewalk $rip"),
    ("An empty line repeats the last command, if it can be repeated:", "stepi"),
    ("", ""),
    ("`quit` leaves the machine in its current state; `detach` would let it run on.", "quit"),
)
LINUX_WALK = (
    (
        """
## A Linux kernel, from its entry to start_kernel

This is an unmodified kernel of a distribution. It is stripped, so its symbols come from its own kallsyms.

```
$ pvhdbg extract /boot/vmlinuz -o vmlinux
$ qemu-system-x86_64 -kernel vmlinux -nic none -display none -S -s &
```

`repl` is the same prompt without the report.
""",
        None,
    ),
    ("", "entry"),
    ("", "set context off"),
    ("One breakpoint covers both addresses of the symbol, the physical and the virtual one:", "b start_kernel"),
    ("The first 64-bit instruction:", "until long-mode"),
    ("", "disas/3"),
    ("Continue at full speed:", "c"),
    ("", "pagewalk $rip"),
    ("", "symbols start_kernel"),
    ("", "x/s linux_banner"),
    ("The hand-off was recorded at the entry, so it can still be judged:", "check --select PVH-CR0 | tail -n 1"),
    ("", "quit"),
)


@contextmanager
def attached(kernel: str, command: str) -> Iterator[tuple[Terminal, str, int]]:
    need("setsid")
    with scratch() as folder:
        cli = Cli(folder)
        machine = Machine("-m", "512M", kernel=kernel, gdb="tcp:127.0.0.1:0")
        port = machine.port()
        assert port is not None
        words = [sys.executable, "-m", "pvhdbg", command, f":{port}", "--kernel", kernel]
        env = {**cli.env, "XDG_STATE_HOME": str(folder / "state"), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
        try:
            with Terminal(words, env, str(ROOT)) as at:
                yield at, f"pvhdbg {command} :1234 --kernel {kernel}", port
        finally:
            machine.close()


def recorded(walk: tuple[tuple[str, str | None], ...], kernel: str, shown: str, command: str) -> str:
    """The walk as Markdown."""
    parts: list[str] = []
    with attached(kernel, command) as (at, command, port):
        for text, line in walk:
            if line is None:
                seen = f"$ {command}\n{at.prompt()}".rstrip()
            elif line == "quit":
                at.press("quit\r")
                assert at.ended() == 0
                seen = f"{PROMPT}quit"
            else:
                seen = f"{PROMPT}{line}\n{at.enter(line)}".rstrip()
            parts += [text, f"```\n{seen}\n```"] if text else [f"```\n{seen}\n```"]
        whole = "\n\n".join(part.strip("\n") for part in parts)
    whole = whole.replace("```\n\n```\n", "")  # lines without a word between them are one block
    return whole.replace(f":{port}", ":1234").replace(kernel, shown).replace(f"{ROOT}/", "") + "\n"


def shape(text: str) -> list[str]:
    """What must be the same on every machine: what was typed, and the words of the first section's answers."""
    lines = []
    for line in text.splitlines():
        if line.startswith((PROMPT, "$ ")):
            lines.append(line)
    return lines


def section(text: str, number: int) -> str:
    return text.split("\n## ")[number]


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def written(title: str, found: str, page: str) -> str:
    """Put a section into the page, when that was asked for."""
    if os.environ.get("PVHDBG_TOUR") != "write":
        return page
    sections = [one for one in re.split(r"\n(?=## )", PAGE.read_text()) if not one.startswith(title)]
    text = "\n".join([*sections, found]) if title != "## From" else "\n".join([HEAD, found, *sections[1:]])
    PAGE.write_text(text)
    return text


@pytest.mark.boot
def test_the_tour_of_a_guest(page: str) -> None:
    found = recorded(GUEST_WALK, GUEST, "pvhdbg/guests/long_mode.elf", "attach")
    page = written("## From", found, page)
    assert "the hand-off conforms to the PVH boot ABI" in found
    assert "<in_long_mode>" in found
    assert "64-bit long mode" in found
    assert shape(section(page, 1)) == shape(found)
    assert numberless(section(page, 1), "until long-mode") == numberless(found, "until long-mode")


@pytest.mark.boot
def test_the_tour_of_linux(page: str, vmlinux: Path) -> None:
    found = recorded(LINUX_WALK, str(vmlinux), "vmlinux", "repl")
    page = written("## A Linux", found, page)
    assert re.search(r"breakpoint 1, 0xffffffff\w+ <start_kernel>, 64-bit long mode", found)
    assert re.search(r"long-mode after \d\.\d s", found)
    assert "Linux version " in found
    assert shape(section(page, 2)) == shape(found)


def numberless(text: str, line: str) -> str:
    """The answer to a line, without its numbers."""
    answer = text.split(f"{PROMPT}{line}\n")[1].split("```")[0].split(PROMPT)[0]
    return re.sub(r"\d+(?:\.\d+)?", "#", answer)
