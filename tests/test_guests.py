"""The sample guests: what is in the repository is what the sources make, and it boots by PVH."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.errors import BadInput
from pvhdbg.targets.run import run_until
from pvhdbg.vmm.qemu import QemuOptions
from tests.support.cli_runner import ROOT
from tests.support.debugged import EXIT_DEVICE, debugged
from tests.support.programs import need

PT_LOAD, PT_NOTE = 1, 4
START_INFO_MAGIC = 0x336EC578


class Elf:
    """An ELF64 file of ours, read without pvhdbg: entry, (type, flags, paddr, memsz, align, bytes) of each segment."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:6] == b"\x7fELF\x02\x01"
        self.entry, phoff = struct.unpack_from("<QQ", self.data, 24)
        size, count = struct.unpack_from("<HH", self.data, 54)
        self.segments = []
        for at in range(phoff, phoff + size * count, size):
            kind, flags, offset, vaddr, paddr, filesz, memsz, align = struct.unpack_from("<IIQQQQQQ", self.data, at)
            assert vaddr == paddr
            self.segments.append((kind, flags, paddr, memsz, align, self.data[offset : offset + filesz]))

    def of_kind(self, kind: int) -> list[tuple[int, int, int, int, int, bytes]]:
        return [segment for segment in self.segments if segment[0] == kind]


def symbols(path: Path) -> set[str]:
    listing = subprocess.run(["readelf", "-sW", str(path)], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return {f"{row[7]} {row[1]} {row[4]}" for row in rows if len(row) == 8 and row[0].rstrip(":").isdigit()}


def test_every_source_has_its_guest() -> None:
    sources = {source.stem for source in ROOT.glob("sample_guests/*/*.S")}
    assert sources == set(guests.names())
    for name in guests.names():
        assert guests.path(name).is_file()
        assert guests.path(name).stat().st_size < 32 * 1024
    with pytest.raises(BadInput, match="nosuch") as caught:
        guests.path("nosuch")
    assert "hello" in caught.value.todo


def test_the_committed_guests_are_what_the_sources_make(tmp_path: Path) -> None:
    need("make", "as", "ld", "objcopy", "readelf")
    subprocess.run(
        ["make", "guests", f"GUESTS_DIR={tmp_path}/out", f"BUILD_DIR={tmp_path}/build"],
        cwd=ROOT, check=True, capture_output=True, env={**os.environ, "MAKEFLAGS": ""},
    )  # fmt: skip
    for name in guests.names():
        fresh = tmp_path / "out" / f"{name}.elf"
        assert Elf(fresh).entry == Elf(guests.path(name)).entry
        assert Elf(fresh).segments == Elf(guests.path(name)).segments, f"run 'make guests' and commit {name}.elf"
        assert symbols(fresh) == symbols(guests.path(name))


@pytest.mark.parametrize("name", ["hello", "probe"])
def test_it_suits_every_loader(name: str) -> None:
    elf = Elf(guests.path(name))
    assert elf.entry >= 1 << 20  # linux-loader asks for it, also when the note names another entry
    ((_, _, _, _, align, note),) = elf.of_kind(PT_NOTE)  # one: linux-loader lets a second erase the first
    assert align == 4  # where QEMU's padding and everybody else's agree
    assert note == struct.pack("<III4sI", 4, 4, 18, b"Xen\0", elf.entry)
    loads = elf.of_kind(PT_LOAD)
    assert any(paddr <= elf.entry < paddr + len(data) for _, _, paddr, _, _, data in loads)
    assert all(data for *_, data in loads)
    assert all(flags & 3 != 3 for _, flags, *_ in loads)  # nothing is both writable and executable
    assert b"\x02\xb0\xad\x1b" not in elf.data[:8192]  # a multiboot header would come first on QEMU


def test_the_probes_interrupt_table_leads_to_its_handler() -> None:
    """Its gates hold the handler's address in two halves, which the assembler cannot check."""
    need("readelf")
    found = dict(symbol.split()[:2] for symbol in symbols(guests.path("probe")))
    ((_, _, paddr, _, _, data),) = [segment for segment in Elf(guests.path("probe")).of_kind(PT_LOAD) if segment[1] == 6]
    start = int(found["idt"], 16) - paddr
    for gate in range(start, int(found["idt_end"], 16) - paddr, 8):
        low, selector, kind, high = struct.unpack_from("<HHHH", data, gate)
        assert (high << 16 | low, selector, kind) == (int(found["fault"], 16), 8, 0x8E00)


def test_hello_has_its_symbols_and_no_constants_among_them() -> None:
    need("readelf")
    found = symbols(guests.path("hello"))
    assert "pvh_start 0000000000100000 GLOBAL" in found
    names = {symbol.split()[0] for symbol in found}
    assert {"check_magic", "print", "exit", "halt", "greeting", "stack_top"} <= names
    assert not {name for name in names if name.isupper()}


@pytest.mark.boot
@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_hello_is_entered_greets_and_exits(machine: str) -> None:
    entry = Elf(guests.path("hello")).entry
    wish = QemuOptions(guests.path("hello"), machine=machine, extra=EXIT_DEVICE)
    with debugged(wish) as (qemu, target):
        run_until(target, [entry], 20)
        registers = target.read_registers()
        assert registers["rip"] == entry
        assert registers["cr0"] & 0x8000_0001 == 1  # protected mode, no paging
        assert struct.unpack("<II", target.read_memory(registers["rbx"], 8)) == (START_INFO_MAGIC, 1)
        assert qemu.serial_tail() == []  # nothing ran before the entry
        target.resume()
        assert qemu.wait(10) == 33
        assert qemu.serial_tail() == ["hello from PVH"]


@pytest.mark.boot
def test_hello_complains_without_start_info() -> None:
    wish = QemuOptions(guests.path("hello"), extra=EXIT_DEVICE)
    with debugged(wish) as (qemu, target):
        run_until(target, [Elf(guests.path("hello")).entry], 20)
        target.write_memory(target.read_registers()["rbx"], b"\0")
        target.resume()
        assert qemu.wait(10) == 35
        assert qemu.serial_tail() == ["EBX does not point to a start_info"]
