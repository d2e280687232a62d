"""The first file of expectations: TOML that passes on the boot that it was written from."""

import dataclasses
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.expect.expectations import read
from pvhdbg.expect.first_file import first_file, quoted
from pvhdbg.expect.judging import judged
from pvhdbg.model import Vmm
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.examples import Example, at_entry
from pvhdbg.spec.revisions import V1

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMAND = (
    "qemu",
    "-kernel",
    "-m",
    "-append",
    'a "b" \\ \x7f é 😀',
    "-m",
    "64M",
    "-smp",
    "4,sockets=2",
    "-M",
    "q35",
    "-accel",
    "tcg",
)


@pytest.mark.parametrize(
    "example",
    [
        at_entry(),
        at_entry(command_line='"\\\x01\x7f caf\u00e9 \U0001f600'.encode() + b"\xff\0", vmm=Vmm("QEMU", "7.2", "tcg", COMMAND)),
        at_entry(segments=False, backing=None, kernel=None, a20=None, unobserved=("cr0", "efer")),
        at_entry(cr4=0x20, tr_limit=0xFFFF, rsdp_paddr=0, modules=[], cmdline_paddr=0),
        at_entry(version=0),
        at_entry(memmap_entries=0),
        at_entry(memory_map=()),
    ],
)
def test_it_passes(example: Example) -> None:
    boot = example.boot(V1)
    file = read(tomllib.loads(first_file(boot, judge(boot), "a\n.pvhsnap")), "boot.toml")
    verdicts, notes = judged(file, boot, judge(boot))
    report = Report(boot, verdicts)
    assert report.exit_code == 0, report.conclusion
    assert notes == ()
    assert all(v.outcome is Outcome.PASS for v in verdicts[-len(file.expected) :])
    assert len(file.expected) >= 4


def test_another_boot_fails() -> None:
    boot = at_entry().boot(V1)
    file = read(tomllib.loads(first_file(boot, judge(boot), "a")), "boot.toml")
    others: list[dict[str, Any]] = [{"command_line": b"quiet\0"}, {"modules": []}, {"cr0": 0x31}, {"memory_map": ()}]
    for changes in others:
        other = at_entry(**changes).boot(V1)
        verdicts, _ = judged(file, other, ())
        assert any(v.outcome is Outcome.FAIL for v in verdicts), changes


def test_the_machine_is_that_of_the_vmms_arguments() -> None:
    boot = at_entry(vmm=Vmm("QEMU", "7.2", "tcg", COMMAND)).boot(V1)
    machine = tomllib.loads(first_file(boot, (), "a"))["machine"]
    assert machine == {"append": COMMAND[4], "memory": "64M", "machine": "q35", "accel": "tcg"}


def test_what_was_redacted_is_not_expected() -> None:
    boot = at_entry(vmm=Vmm("QEMU", "7.2", "tcg", COMMAND)).boot(V1)
    boot = dataclasses.replace(boot, snapshot=dataclasses.replace(boot.snapshot, sources={"command line": "redacted"}))
    document = tomllib.loads(first_file(boot, (), "a"))
    assert "append" not in document["machine"]
    assert not any("command_line" in one["field"] for one in document["expect"])


@given(st.text())
def test_any_text_is_a_toml_string(text: str) -> None:
    wanted = "".join("\N{REPLACEMENT CHARACTER}" if 0xD800 <= ord(letter) <= 0xDFFF else letter for letter in text)
    assert tomllib.loads(f"x = {quoted(text)}")["x"] == wanted
