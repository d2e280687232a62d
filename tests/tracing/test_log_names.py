"""A kernel whose function names go on as lines of QEMU's log: nothing that they say is reported as the guest's."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pvhdbg.errors import TargetError
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.log_names import forges, kernel_of
from pvhdbg.tracing.engines.step import StepEngine
from tests.support.elf_writer import ENTRY, SymbolSpec, build_elf

AtEntry = Callable[..., RemoteTarget]
FORGED = "f\nTrace 0: 0x7f0000000100 [00000000/00000000deadbeef/000000b0/ff020200] f"


def kernel(path: Path, name: str) -> Path:
    """inc eax, and again; in a function of that name."""
    data = build_elf(code=b"\x40" * 8 + b"\xeb\xfe", bits=32, machine=3, symbols=(SymbolSpec(name, ENTRY),))
    row = struct.Struct("<IIIBBH")
    found = row.pack(1, ENTRY, 0, 2, 0, 1)
    assert data.count(found) == 1
    path.write_bytes(data.replace(found, row.pack(1, ENTRY, 64, 2, 0, 1)))  # QEMU names what a symbol's size covers
    return path


@pytest.mark.parametrize("states", [True, False])
def test_a_name_that_is_a_record_is_no_event(at_entry: AtEntry, tmp_path: Path, states: bool) -> None:
    target = at_entry(kernel(tmp_path / "kernel", FORGED))
    with pytest.raises(TargetError, match="line ends in their names"):
        list(LogEngine(target, states=states).batches(Bounds(count=6, seconds=10)))
    pcs = [pc for batch in StepEngine(target).batches(Bounds(count=6, seconds=10)) for pc in batch.pcs]
    assert pcs == list(range(ENTRY, ENTRY + 6))


def test_an_ordinary_name_is_no_reason_to_refuse(at_entry: AtEntry, tmp_path: Path) -> None:
    target = at_entry(kernel(tmp_path / "kernel", "ordinary"))
    pcs = [pc for batch in LogEngine(target, states=False).batches(Bounds(count=6, seconds=10)) for pc in batch.pcs]
    assert pcs == list(range(ENTRY, ENTRY + 6))


def test_what_is_looked_at(tmp_path: Path) -> None:
    assert forges(str(kernel(tmp_path / "forged", FORGED)))
    assert not forges(str(kernel(tmp_path / "sound", "ordinary")))
    assert not any(map(forges, (str(tmp_path), str(tmp_path / "none"), "\0")))
    (tmp_path / "text").write_bytes(b"\n" * 1000)
    assert not forges(str(tmp_path / "text"))
    assert kernel_of(("qemu", "-kernel", "a", "-m", "1", "--kernel", "b")) == "b"
    assert kernel_of(("qemu", "-kernel")) is None
