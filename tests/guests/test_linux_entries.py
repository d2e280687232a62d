"""The entries of a real bzImage: Linux's own setup code, and its own way to 64 bits, make the states that must be named."""

from pathlib import Path

import pytest

from pvhdbg.decode.boot_state import BootState
from pvhdbg.machine.capture import capture
from pvhdbg.machine.entry_search import Plan
from pvhdbg.vmm.qemu import QemuOptions
from tests.support.debugged import debugged

pytestmark = pytest.mark.boot

SETUP = 0x10200  # where QEMU's linuxboot.bin enters the setup code: 1020:0000
PROTECTED_MODE_KERNEL = 0x100000
LONG_MODE_ENTRY = PROTECTED_MODE_KERNEL + 0x200  # where a 64-bit loader enters, and startup_32 goes on


@pytest.fixture(scope="module")
def states(vmlinuz: Path) -> dict[str, BootState]:
    """One boot of a bzImage, decoded at its three entries as it passes them."""
    found = {}
    with debugged(QemuOptions(vmlinuz, append="console=ttyS0")) as (_, target):
        for name, entry in (("linux16", SETUP), ("linux32", PROTECTED_MODE_KERNEL), ("linux64", LONG_MODE_ENTRY)):
            found[name] = capture(target, Plan(entry=entry))
            assert found[name].snapshot.entry.address == entry
    return found


@pytest.mark.parametrize("name", ["linux16", "linux32", "linux64"])
def test_an_entry_of_linux_is_named(states: dict[str, BootState], name: str) -> None:
    protocol = states[name].other_protocol
    assert protocol is not None
    assert protocol.key == name


def test_the_modes_are_those_of_the_entries(states: dict[str, BootState]) -> None:
    cr0 = {name: state.registers["cr0"] for name, state in states.items()}
    assert [(cr0[name] & 1, cr0[name] >> 31 & 1) for name in ("linux16", "linux32", "linux64")] == [(0, 0), (1, 0), (1, 1)]
    assert states["linux16"].registers["rip"] == 0
    assert states["linux32"].registers["esi"] == states["linux64"].registers["esi"]
