"""docs/probe.md and probe.S against the one declaration of the format, and the page's commands against a real QEMU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pvhdbg.spec import probe_format
from pvhdbg.spec.probe_format import GAPS, HEAD, KINDS, LINE_LIMIT, MARK, TESTS, VERSION, Form, LineKind
from tests.support.cli_runner import ROOT

PAGE = ROOT / "docs" / "probe.md"
SOURCE = (ROOT / "sample_guests" / "probe" / "probe.S").read_text()
BEGIN, END = "<!-- format:", "<!-- end of format -->"


def words_of(kind: LineKind) -> str:
    """The words of a kind, each with what it means where that is not its name."""
    cells = []
    for word in kind.words:
        meaning = "" if word.meaning == word.name else f": {word.meaning}"
        form = "" if word.form is Form.WORD else f" ({word.form.title})"
        cells.append(f"`{word.name}`{form}{meaning}")
    return "; ".join(cells) if any(": " in cell for cell in cells) else " ".join(cells)


def format_section() -> str:
    lines = [f"- `{name}`: {meaning}" for name, meaning in HEAD]
    lines += [
        "",
        f"Each line has less than {LINE_LIMIT} characters. Words are {Form.WORD.title}, unless another form is named.",
        "",
    ]
    lines += ["| kind | how many | what it is | words |", "|---|---|---|---|"]
    lines += [f"| `{kind.name}` | {'some' if kind.many else 'one'} | {kind.meaning} | {words_of(kind)} |" for kind in KINDS]
    lines += ["", "Bits of the word `tests` of a `segment` line:", "", "| bit | meaning |", "|---|---|"]
    lines += [f"| {bit} | {meaning} |" for bit, meaning in TESTS.items()]
    lines += ["", "Reasons of a `gap` line:", "", "| reason | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in GAPS.items()]
    return "\n".join(lines)


def test_the_page_says_what_the_format_is() -> None:
    page = PAGE.read_text()
    section = page[page.index(BEGIN) : page.index(END)].split("\n", 1)[1].strip()
    assert section == format_section(), f"put this into docs/probe.md:\n\n{format_section()}\n"
    assert f"{MARK}{VERSION} <boot> <number> <kind> <words> *<crc>" in page


def test_the_guest_prints_the_kinds_that_are_declared() -> None:
    printed = re.findall(r'^\s+KIND\s+\w+, "(\w+)"\n((?:\s+(?:NAME|WORDS|\.ascii|\.byte|\.long).*\n)*)', SOURCE, re.MULTILINE)
    assert {name for name, _ in printed} == {kind.name for kind in KINDS}
    for name, template in printed:
        forms: list[Form] = []
        for row in template.splitlines():
            word, _, rest = row.strip().partition(" ")
            rest = rest.strip()
            if word == "NAME":
                forms.append(Form.NAME)
            elif word == "WORDS":
                forms += [Form.WORD] * len(rest.split(","))
            elif rest.startswith("FIELD_HALF"):
                forms.append(Form.HALF)
            elif rest.startswith("FIELD_BYTES"):
                forms.append(Form.BYTES)
        assert forms == [word.form for word in probe_format.BY_NAME[name].words], name


def test_the_guest_has_the_numbers_that_are_declared() -> None:
    for name in (name for name in vars(probe_format) if name.startswith("TEST_")):
        assert re.search(rf"^\s+\.set\s+{name}, {getattr(probe_format, name)}\s", SOURCE, re.MULTILINE), name
    assert f'.ascii  "{MARK}{VERSION}"' in SOURCE
    assert set(re.findall(r'^reason_\w+:\s+\.ascii\s+"([a-z]+)', SOURCE, re.MULTILINE)) == set(GAPS)
    names = re.search(r'^segment_names:.*\n\s+\.ascii\s+"(.*)"', SOURCE, re.MULTILINE)
    assert names is not None
    assert tuple(part for part in names[1].split(r"\0") if part) == probe_format.SEGMENTS
    msrs = re.search(r"^msr_numbers:.*\n\s+\.long\s+EFER, (.*)", SOURCE, re.MULTILINE)
    assert msrs is not None
    assert [0xC0000080, *(int(number, 16) for number in msrs[1].split(","))] == list(probe_format.MSRS)


@pytest.mark.boot
def test_the_pages_qemu_commands_run(tmp_path: Path) -> None:
    page = PAGE.read_text()
    chapter = page[page.index("## From a log") : page.index("## What a guest cannot see")]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL))
    assert script.count("qemu-system-x86_64 -") == 4
    for name, words in (("pvhdbg", "-m pvhdbg"), ("python3", "")):
        shim = tmp_path / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        shim.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("the hand-off conforms to the PVH boot ABI") == 3
    assert ran.stdout.count("KNOWN   PVH-TR-LIMIT") == 1  # where the version was told
