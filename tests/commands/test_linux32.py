"""32-bit kernels that turn PAE paging on: Debian's, which is known by its own kallsyms, and a small one that goes its way everywhere."""

import re
from pathlib import Path

import pytest

from pvhdbg.kernel.image import open_kernel
from tests.support.cli_runner import Cli

STEPS = [
    "entry",
    "lgdt",
    "segments",
    "cr4.pae",
    "cr3",
    "cr0.pg",
    "far jump",
    "higher half",
    "i386_start_kernel",
    "idt",
    "start_kernel",
]


def test_its_symbols_are_where_its_segments_say(kernel32: Path) -> None:
    with open_kernel(str(kernel32)) as image:
        file, symbols = image.file(), image.symbols()
        assert file.entry is not None
        assert symbols.name_at(file.entry.address) == "pvh_start_xen"
        assert symbols.virtual_address("pvh_start_xen") == file.entry.address + 0xC0000000
        assert len(symbols) > (40_000 if "kallsyms" in str(symbols.origin) else 10)


@pytest.mark.boot
def test_it_conforms_and_its_way_to_start_kernel_is_counted(cli: Cli, kernel32: Path) -> None:
    done = cli("trace", kernel32, "--for", "30").ok()
    found = re.findall(r"^ +([\d,]+)  (\S+(?: \S+)?)  +0x", done.out, re.MULTILINE)
    assert [name for _, name in found if name != "rest_init"] == STEPS
    assert re.search(r"^ +(> )?[\d,]+  rest_init +0xc1", done.out, re.MULTILINE)  # Linux runs to it at full speed
    assert "everything requested was seen" in done.out  # no long mode is waited for
    cli("check", kernel32, "--until", "start_kernel").ok()


@pytest.mark.boot
def test_a_halt_in_the_kernels_own_handler_is_laid_to_what_it_handles(cli: Cli, kernel32: Path) -> None:
    """A 486 has no cmov, with which this kernel is full; early_fixup_exception halts when it happens again and again."""
    found = cli("why", kernel32, "--cpu", "486", "--for", "30", "--format", "json").ok().json()
    assert (found["kind"], found["cause"], found["mode"]) == ("halted", "missing CPU feature", "pae")
    assert found["symbol"].startswith("early_fixup_exception+")
    assert re.search(r"has not returned, of #UD invalid opcode at 0xc1\w+ \(\w+\+0x\w+\), [\d,]+ instructions after the entry: "
                     r"the CPU does not know the instruction `cmov", found["verdict"])  # fmt: skip
    assert {one["vector"] for one in found["faults"]} == {6}
    assert {one["mode"] for one in found["path"]} == {"pae"}
    assert "--cpu max" in found["next"]
