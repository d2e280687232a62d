"""One kernel, four loaders: the fifteen cases in which VMMs part, each from an ELF made for it."""

from typing import Any, NamedTuple

import pytest

from pvhdbg.decode.kernel_file import survey
from pvhdbg.loaders.catalogue import BY_NAME
from pvhdbg.loaders.loading import Loading
from pvhdbg.spec.elf import PT_NOTE
from tests.support.elf_writer import ENTRY, ElfSpec, NoteSpec, Piece, Program, RawNotes

GOOD, OTHER = ENTRY, ENTRY + 0x10
A, B = NoteSpec(), NoteSpec(desc=OTHER.to_bytes(4, "little"))
GNU = NoteSpec(3, b"GNU\0", b"\xab" * 20)
CODE = Piece(content=b"\xeb\xfe" + bytes(62))
BEHIND = b"\xff" * 64  # as sections lie behind the segments of a real file


def notes(*specs: NoteSpec | RawNotes, align: int = 4) -> Piece:
    return Piece(PT_NOTE, b"".join(spec.encode() for spec in specs), paddr=0, flags=4, align=align)


def elf(*pieces: Piece, tail: bytes = BEHIND, **changes: Any) -> bytes:
    return bytes(Program((CODE, *pieces), tail=tail, **changes).encode())


class Case(NamedTuple):
    """A file, and what Xen, QEMU, Cloud Hypervisor and Alioth do with it: protocol and entry, or words of the refusal."""

    title: str
    data: bytes
    xen: str | int
    qemu: str | int
    linux_loader: str | int
    alioth: str | int


NO_NOTE, LACKS = "without PVH ELF Note", "Kernel lacks PVH header"
REJECT = "ELF image is not 32bit"  # what the HVM loader says, which is asked next
CASES = [
    Case("p_align 4, 4 bytes", elf(notes(A)), GOOD, GOOD, GOOD, GOOD),
    Case("p_align 8, packed to 4", elf(notes(A, align=8), tail=bytes(64)), GOOD, NO_NOTE, GOOD, 0),
    Case("p_align 8, padded to 8", elf(notes(RawNotes(A.padded_by_lengths(8)), align=8)), REJECT, GOOD, 0, GOOD),
    Case("p_align 0", elf(notes(A, align=0)), GOOD, "SIGFPE", GOOD, GOOD),
    Case("p_align 1", elf(notes(A, align=1)), GOOD, GOOD, GOOD, GOOD),
    Case("in a section only", ElfSpec(notes=(), section_notes=(A,)).encode(), GOOD, NO_NOTE, LACKS, GOOD),
    Case("a GNU PT_NOTE behind", elf(notes(A), notes(GNU)), GOOD, GOOD, LACKS, GOOD),
    Case("owner GNU, type 18", elf(notes(NoteSpec(owner=b"GNU\0"))), REJECT, GOOD, LACKS, GOOD),
    Case("two notes in a segment", elf(notes(A, B)), OTHER, GOOD, GOOD, GOOD),
    Case("two segments", elf(notes(A), notes(B)), OTHER, OTHER, OTHER, GOOD),
    Case("8 bytes, high half set", elf(notes(NoteSpec(desc=(GOOD + (1 << 32)).to_bytes(8, "little")))), GOOD, GOOD, GOOD, GOOD + (1 << 32)),
    Case("entry outside", elf(notes(NoteSpec(desc=b"\0\0\0\x05"))), REJECT, 0x5000000, 0x5000000, 0x5000000),
    Case("ELF64, multiboot", ElfSpec(multiboot=True).encode(), GOOD, "Cannot load x86-64 image", GOOD, GOOD),
    Case("ELF32, multiboot", ElfSpec(bits=32, machine=3, multiboot=True).encode(), GOOD, "multiboot1", "Invalid bzImage", "Not a 64-bit kernel"),
    Case("ELF64 for 386", ElfSpec(machine=3).encode(), GOOD, GOOD, GOOD, GOOD),
]  # fmt: skip


def matches(loading: Loading, expected: str | int) -> bool:
    if isinstance(expected, int):
        return (loading.protocol, loading.entry) == ("pvh", expected)
    return expected == loading.protocol or expected in (loading.refusal or loading.crash or "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_loaders_part_as_the_table_says(case: Case) -> None:
    kernel = survey(case.data)
    names = ("xen", "qemu", "cloud-hypervisor", "alioth")
    answers = {name: BY_NAME[name].load(kernel) for name in names}
    wanted = dict(zip(names, (case.xen, case.qemu, case.linux_loader, case.alioth), strict=True))
    assert [name for name in names if not matches(answers[name], wanted[name])] == [], answers


def test_a_quirk_says_what_decided() -> None:
    def quirks(title: str, name: str) -> str:
        loading = BY_NAME[name].load(survey(next(case.data for case in CASES if case.title == title)))
        assert all(quirk.source for quirk in loading.quirks)
        return "; ".join(quirk.text for quirk in loading.quirks)

    assert "the PT_NOTE has p_align 0" in quirks("p_align 0", "qemu")
    for name in ("xen", "cloud-hypervisor"):
        assert "padded to 4, p_align is ignored" in quirks("p_align 8, padded to 8", name)
    for name in ("qemu", "alioth"):
        assert "padded by p_align" in quirks("p_align 8, packed to 4", name)
    assert "sections are not searched" in quirks("in a section only", "qemu")
    assert "sections are not searched" in quirks("in a section only", "cloud-hypervisor")
    assert "the sections are searched" in quirks("in a section only", "xen")
    assert "erases the entry found before" in quirks("a GNU PT_NOTE behind", "cloud-hypervisor")
    assert "neither owner nor size" in quirks("owner GNU, type 18", "qemu")
    assert "that is not Xen's" in quirks("owner GNU, type 18", "cloud-hypervisor")
    for name, words in (("xen", "the last is used"), ("qemu", "the first is used"), ("cloud-hypervisor", "the first is used")):
        assert words in quirks("two notes in a segment", name)
    assert "replaces the entry" in quirks("two segments", "cloud-hypervisor")
    assert "truncated to 32" in quirks("8 bytes, high half set", "qemu")
    assert "64 bits are kept" in quirks("8 bytes, high half set", "alioth")
    for name in ("qemu", "cloud-hypervisor", "alioth"):
        assert "lies in no PT_LOAD" in quirks("entry outside", name)
    assert "hides the PVH note" in quirks("ELF64, multiboot", "qemu")
    assert "its class is not checked" in quirks("ELF32, multiboot", "cloud-hypervisor")
