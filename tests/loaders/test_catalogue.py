"""The catalogue, and that no file makes a simulator fail."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode.container import Container
from pvhdbg.decode.kernel_file import KernelFile, survey
from pvhdbg.errors import BadInput
from pvhdbg.loaders.catalogue import LOADERS, find, simulate
from pvhdbg.loaders.loading import BootParameters, EntryProtocol
from pvhdbg.loaders.why_not import why_not
from pvhdbg.spec.protocols import SIGNATURES
from tests.loaders.generated import cases
from tests.support.elf_writer import ElfSpec, NoteSpec, SymbolSpec
from tests.support.sorting import examples


def test_loaders_are_found_by_name() -> None:
    assert [loader.name for loader in find(["qemu", "firecracker", "qemu"])] == ["qemu", "firecracker"]
    assert find([loader.name for loader in LOADERS]) == LOADERS
    with pytest.raises(BadInput) as error:
        find(["qemu", "firecraker"])
    assert "'firecraker'" in error.value.what
    assert "did you mean firecracker" in error.value.todo
    with pytest.raises(BadInput) as error:
        find(["zzz"])
    assert "cloud-hypervisor" in error.value.todo


def test_names_titles_and_protocols_are_the_fields_own() -> None:
    assert len({loader.name for loader in LOADERS}) == len({loader.title for loader in LOADERS}) == len(LOADERS)
    assert all(loader.source and loader.name == loader.name.lower() for loader in LOADERS)
    assert {one.value for one in EntryProtocol} <= {"pvh", *(signature.key for signature in SIGNATURES)}


def check(kernel: KernelFile) -> None:
    for boot in (BootParameters(), BootParameters(b"x", 5000, 64 << 20, "pc", b"/k", b"/i")):
        for loading in simulate(kernel, boot):
            answers = [loading.protocol, loading.refusal, loading.undefined, loading.crash]
            assert sum(answer is not None for answer in answers) == 1, loading
            assert (loading.entry is None) == (loading.protocol is None), loading
            assert (loading.bits is None) == (loading.protocol is None)
            assert "" not in answers, loading
            for item in loading.fw_cfg:
                if isinstance(item.value, int):
                    assert 0 <= item.value < 1 << 32
                elif item.value is not None:
                    assert len(item.value) == item.size
    why_not(kernel)


def test_every_generated_case_has_one_answer() -> None:
    for case in cases(200, seed=7):
        try:
            check(survey(case.data))
        except BadInput:
            continue


BASES = [
    ElfSpec().encode(),
    ElfSpec(bits=32, machine=3, multiboot=True).encode(),
    ElfSpec(notes=((NoteSpec(3, b"GNU\0", bytes(20)), NoteSpec()), (NoteSpec(19, desc=bytes(12)),)), align=8).encode(),
    ElfSpec(notes=(), section_notes=(NoteSpec(),), symbols=(SymbolSpec("start", 0x100000),)).encode(),
    *(case.data for case in cases(12, seed=11)),
]


@settings(deadline=None, max_examples=examples(250))
@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.integers(0, 1023), st.sampled_from((0, 1, 4, 8, 0x7F, 0x80, 0xFF)) | st.integers(0, 255)), max_size=10),
    st.none() | st.integers(0, 1500),
)
def test_mutated_files_are_answered_for(base: bytes, changes: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(base)
    for at, value in changes:
        if at < len(data):
            data[at] = value
    try:
        kernel = survey(bytes(data[:cut]))
    except BadInput:
        return
    check(kernel)
    check(replace(kernel, container=Container("gzip", size=len(data), head=b"\x1f\x8b" + bytes(600))))


def test_a_long_run_of_notes_is_walked_at_once() -> None:
    """Behind its note segment QEMU walks through the file: zeros in one step, anything else up to a bound."""
    zeros = ElfSpec(notes=((NoteSpec(5, desc=b"xen-3.0\0"),),)).encode() + bytes(64 << 20) + b"\xff" * 64
    assert "without PVH ELF Note" in str(find(["qemu"])[0].load(survey(zeros)).refusal)
    many = ElfSpec(notes=((NoteSpec(5, desc=b"xen-3.0\0"),),)).encode() + NoteSpec(7, b"", b"").encode() * (1 << 17)
    assert "more than" in str(find(["qemu"])[0].load(survey(many)).undefined)
