"""Debian's kernel for 32-bit PCs: an ELF32 that turns PAE paging on, and is known by its own kallsyms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pvhdbg.kernel_image import open_kernel
from tests.frontends.cli_runner import Cli

STEPS = ["entry", "lgdt", "segments", "cr4.pae", "cr3", "cr0.pg", "far jump", "higher half", "i386_start_kernel", "idt", "start_kernel"]


def test_its_symbols_are_where_its_segments_say(vmlinux32: Path) -> None:
    with open_kernel(str(vmlinux32)) as image:
        file, symbols = image.file(), image.symbols()
        assert file.entry is not None
        assert symbols.name_at(file.entry.address) == "pvh_start_xen"
        assert symbols.virtual_address("pvh_start_xen") == file.entry.address + 0xC0000000
        assert len(symbols) > 40_000


@pytest.mark.boot
def test_it_conforms_and_its_way_ends_at_start_kernel(cli: Cli, vmlinux32: Path) -> None:
    done = cli("trace", vmlinux32, "--for", "30").ok()
    found = re.findall(r"^ +([\d,]+)  (\S+(?: \S+)?)  +0x", done.out, re.MULTILINE)
    assert [name for _, name in found] == STEPS
    assert "all that was asked for was seen" in done.out  # no long mode is waited for
    cli("check", vmlinux32, "--until", "start_kernel").ok()
