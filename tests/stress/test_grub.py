"""GRUB's PVH image: what it relies on, as far as it comes without Xen."""

import re
from pathlib import Path

import pytest

from tests.support.cli_runner import Cli


@pytest.mark.boot
def test_grub_comes_to_its_search_for_xen_whatever_the_abi_leaves_open(cli: Cli, grub_pvh: Path) -> None:
    """It looks for Xen's signature before anything else, and halts without it: that is as far as QEMU boots it."""
    died = cli("why", grub_pvh, "--for", "20", "--memory", "64M").ok().out
    assert "Found no Xen signature!" in died
    halt = re.search(r"halted for good, [\d,]+ instructions after the entry, at (0x[0-9a-f]+)", " ".join(died.split()))
    assert halt is not None
    hard = "registers-garbage,flags-garbage,gdt-gone,esp-zero"
    ran = cli("stress", grub_pvh, "--memory", "64M", "--until", halt[1], "--only", hard, "--jobs", "2").ok()
    assert "survives 4 of 4 mutations" in ran.out
