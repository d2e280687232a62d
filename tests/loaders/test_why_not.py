"""Why a kernel has no usable PVH entry, or why QEMU misses it, in one sentence each."""

import pytest

from pvhdbg.decode import elf
from pvhdbg.decode.kernel_file import survey
from pvhdbg.errors import NotBootable
from pvhdbg.loaders.why_not import why_not
from tests.support.elf_writer import ElfSpec, NoteSpec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ElfSpec(notes=()), "no PT_NOTE"),
        (ElfSpec(notes=((NoteSpec(type=5, desc=b"xen-3.0\0"),),)), "none of its 1 notes"),
        (ElfSpec(notes=((NoteSpec(owner=b"GNU\0"),),)), "not to Xen"),
        (ElfSpec(notes=((NoteSpec(owner=b"Xen"),),)), "not to Xen"),
        (ElfSpec(notes=((NoteSpec(desc=b""),),)), "holds nothing"),
        (ElfSpec(notes=((NoteSpec(desc=b"\0\0\x10"),),)), "holds"),
    ],
)
def test_why_a_kernel_has_no_entry(spec: ElfSpec, words: str) -> None:
    parsed = elf.parse(spec.encode())
    assert elf.phys32_entry(parsed) is None
    error = why_not(survey(spec.encode()))
    assert isinstance(error, NotBootable)
    assert error.exit_code == 1
    assert words in error.what
    assert "QEMU" in error.what
    assert error.todo


def test_an_address_of_0_is_one_that_qemu_refuses() -> None:
    spec = ElfSpec(notes=((NoteSpec(desc=bytes(4)),),))
    error = why_not(survey(spec.encode()))
    assert "no PVH entry that QEMU finds" in error.what
    assert "holds the address 0" in error.what


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            ElfSpec(notes=((NoteSpec(5, desc=b"xen-3.0\0"),),)),
            "QEMU refuses it: “Error loading uncompressed kernel without PVH ELF Note”",
        ),
        (ElfSpec(notes=(), multiboot=True), "It also has a multiboot header: QEMU refuses it with “Cannot load x86-64 image"),
        (ElfSpec(notes=(), multiboot=True, bits=32, machine=3), "QEMU boots it by its multiboot header"),
        (ElfSpec(notes=((NoteSpec(owner=b"GNU\0"),),)), "enters it at 0x100000 all the same"),
        (ElfSpec(notes=((NoteSpec(5),),), align=0), "QEMU is killed by SIGFPE"),
    ],
)
def test_what_qemu_does_with_it(spec: ElfSpec, words: str) -> None:
    assert words in why_not(survey(spec.encode() + b"\xff" * 64)).what


def test_what_qemu_reads_behind_the_file_is_chance() -> None:
    assert "What QEMU does is undefined" in why_not(survey(ElfSpec(notes=((NoteSpec(5),),)).encode())).what
