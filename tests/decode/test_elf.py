"""ELF headers, segments and notes: readelf as the oracle, and files that lie in every field."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode import boot_headers, elf
from pvhdbg.decode.kernel_file import survey
from pvhdbg.errors import BadInput
from pvhdbg.spec.elf_notes import PHYS32_ENTRY, XEN_NOTES
from tests.support.elf_writer import ENTRY, ElfSpec, NoteSpec
from tests.support.programs import need
from tests.support.sorting import examples

GOOD = ElfSpec().encode()


def entry_of(parsed: elf.ElfFile) -> int:
    found = elf.phys32_entry(parsed)
    assert found is not None
    return found.address


def readelf(*words: str | Path) -> str:
    need("readelf")
    return subprocess.run(["readelf", *map(str, words)], capture_output=True, text=True, check=True).stdout


def oracle_check(path: Path) -> None:
    parsed = elf.parse(path.read_bytes())
    loads = re.findall(
        r"^ +LOAD +0x([0-9a-f]+) 0x([0-9a-f]+) 0x([0-9a-f]+) 0x([0-9a-f]+) 0x([0-9a-f]+)", readelf("-lW", path), re.MULTILINE
    )
    assert [(s.p_offset, s.p_vaddr, s.p_paddr, s.p_filesz, s.p_memsz) for s in parsed.loads] == [
        tuple(int(number, 16) for number in row) for row in loads
    ]
    listing = readelf("-nW", path)
    sizes = [int(size, 16) for size in re.findall(r"^  (?:Xen|GNU|Linux) +0x([0-9a-f]{8})", listing, re.MULTILINE)]
    ours = [len(note.desc) for note in parsed.notes]
    assert set(ours) <= set(sizes)
    build_id = re.search(r"Build ID: ([0-9a-f]+)", listing)
    assert elf.build_id(parsed.notes) == (build_id[1] if build_id else None)


def test_real_kernels_are_read_as_readelf_reads_them(vmlinux: Path, xen_shim: Path) -> None:
    for path in (vmlinux, xen_shim):
        oracle_check(path)
    parsed = elf.parse(vmlinux.read_bytes())
    assert elf.phys32_entry(parsed) is not None
    entry = next(n for n in parsed.notes if n.is_xen and n.type == PHYS32_ENTRY)
    assert len(entry.desc) == 8  # as Linux writes it
    assert {note.type for note in parsed.notes if note.is_xen} <= set(XEN_NOTES)


def test_xen_shim_has_both_a_note_and_a_multiboot_header(xen_shim: Path) -> None:
    data = xen_shim.read_bytes()
    assert elf.phys32_entry(elf.parse(data)) is not None
    assert boot_headers.multiboot(data) is not None
    assert boot_headers.multiboot(GOOD) is None


@pytest.mark.parametrize("bits", [32, 64])
def test_what_the_writer_wrote_is_read_back(bits: int) -> None:
    parsed = elf.parse(ElfSpec(bits=bits, machine=3 if bits == 32 else 62).encode())
    assert parsed.bits == bits
    assert entry_of(parsed) == ENTRY
    assert [(load.start, load.size) for load in elf.load_ranges(parsed)] == [(ENTRY, 32 + 64)]


def test_an_eight_byte_descriptor_is_a_32_bit_address() -> None:
    note = NoteSpec(desc=(1 << 32 | 0x200000).to_bytes(8, "little"))
    assert entry_of(elf.parse(ElfSpec(notes=((note,),)).encode())) == 0x200000


def test_of_several_notes_qemus_choice_is_taken() -> None:
    def at(address: int) -> NoteSpec:
        return NoteSpec(desc=address.to_bytes(4, "little"))

    # First in a segment, last segment.
    spec = ElfSpec(notes=((at(1), at(2)), (at(3), at(4))))
    assert entry_of(elf.parse(spec.encode())) == 3


def test_a_note_with_the_build_id_beside_it() -> None:
    spec = ElfSpec(notes=((NoteSpec(3, b"GNU\0", b"\xab" * 20), NoteSpec()),))
    parsed = elf.parse(spec.encode())
    assert elf.build_id(parsed.notes) == "ab" * 20
    assert entry_of(parsed) == ENTRY


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"\x7fELF", "4 bytes"),
        (b"MZ" + bytes(100), "not an ELF"),
        (replace(ElfSpec(), data=2).encode(), "big-endian"),
        (GOOD[:40], "truncated"),
        (GOOD[:100], "truncated"),
        (GOOD[:-4], "has notes at"),
        (GOOD[:4] + b"\x07" + GOOD[5:], "class 7"),
        (GOOD[:0x38] + b"\xff\xff" + GOOD[0x3A:], "65535 program headers"),
        (GOOD[:0x38] + b"\0\0" + GOOD[0x3A:], "no program headers"),
        (GOOD[:0x36] + b"\x01\0" + GOOD[0x38:], "e_phentsize at file offset 0x36 is 1"),
        (GOOD[:0x20] + b"\xff" * 8 + GOOD[0x28:], "truncated"),
    ],
)
def test_a_bad_file_is_told_by_the_field(data: bytes, words: str) -> None:
    with pytest.raises(BadInput) as error:
        elf.parse(data)
    assert words in error.value.what
    assert error.value.todo


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=12), st.integers(0, len(GOOD)))
def test_mutated_files_are_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    for variant in (bytes(data), bytes(data[:cut])):
        try:
            parsed = elf.parse(variant)
        except BadInput as error:
            assert error.todo  # noqa: PT017 - any other exception fails the test
            continue
        elf.describe(parsed, "x", len(variant))
        survey(variant)
        try:
            elf.symbol_table(variant, parsed)
        except BadInput:
            pass
