"""What a started QEMU writes does not fill the disk, and the newest of it stays."""

import os
from pathlib import Path

import pytest

from pvhdbg.vmm import log_bound
from pvhdbg.vmm.log_bound import give_back
from pvhdbg.vmm.qemu import QemuOptions, start
from tests.support.cli_runner import eventually, kernel_elf

WRITES = b"\xb0\x41\x66\xba\xf8\x03\xb9\x00\x10\x00\x00\xee\xe2\xfd\xeb\xf6"  # COM1 gets 'A' without end
BOUND = 1 << 20


@pytest.mark.boot
def test_a_flood_on_the_serial_port_is_bounded_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_bound, "BOUND", BOUND)
    monkeypatch.setattr(log_bound, "KEPT", BOUND // 4)
    kernel = tmp_path / "flood.elf"
    kernel.write_bytes(kernel_elf(WRITES))
    with start(QemuOptions(kernel)) as qemu:
        with qemu.qmp() as qmp:
            qmp.execute("cont")
        eventually(lambda: qemu.serial_log.stat().st_size > 4 * BOUND, "the guest does not write", 60)
        eventually(lambda: qemu.serial_log.stat().st_blocks * 512 < 3 * BOUND, "the disk fills up", 20)
        assert "AAAA" in qemu.serial_tail()[-1]


def test_only_the_old_part_of_a_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_bound, "BOUND", BOUND)
    monkeypatch.setattr(log_bound, "KEPT", BOUND // 4)
    path = tmp_path / "log"
    path.write_bytes(b"o" * BOUND + b"n" * (BOUND // 4))
    give_back(path)
    data = path.read_bytes()
    assert len(data) == BOUND + BOUND // 4
    assert data == bytes(BOUND) + b"n" * (BOUND // 4)
    assert os.stat(path).st_blocks * 512 <= BOUND // 2
