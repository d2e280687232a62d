"""What a user hands over as a kernel: every compression that kernels come in, and everything that is none."""

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import pvhdbg.kernel.unpack
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import extract, open_kernel
from tests.support.elf_writer import ElfSpec
from tests.support.programs import need
from tests.support.sorting import examples

ELF: bytes = ElfSpec(code=b"\xeb\xfe" + bytes(range(256)) * 400).encode()


def lz4_legacy(data: bytes) -> bytes:
    blocks = [lz4.block.compress(data[at : at + (8 << 20)], store_size=False) for at in range(0, len(data), 8 << 20)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(
        data, check=lzma.CHECK_CRC32, filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    ),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "lz4": lz4_legacy,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def bzimage(payload: bytes, size: int) -> bytes:
    """A bzImage of boot protocol 2.15 around a payload, which the build ends with the unpacked size."""
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = struct.pack("<H", 0x20F)
    payload += struct.pack("<I", size)
    setup[0x248:0x250] = struct.pack("<II", 0x40, len(payload))
    return bytes(setup) + bytes(0x40) + payload + b"what follows"


@pytest.mark.parametrize("packer", PACKERS)
def test_a_bzimage_is_unpacked(tmp_path: Path, packer: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(PACKERS[packer](ELF), len(ELF)))
    with open_kernel(str(path)) as image:
        assert image.was == f"bzImage ({packer})"
        assert bytes(image.data[:]) == ELF
        loadable = Path(image.elf_path)
        assert loadable.read_bytes() == ELF
        assert os.readlink(loadable).endswith(" (deleted)"), "a killed process would leave it"
    assert not loadable.exists()


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_elf_is_unpacked(tmp_path: Path, packer: str) -> None:
    path = tmp_path / "xen.packed"
    path.write_bytes(PACKERS[packer](ELF))
    with open_kernel(str(path)) as image:
        assert image.was == packer
        assert bytes(image.data[:]) == ELF


def test_an_elf_is_used_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(ELF)
    with open_kernel(str(path)) as image:
        assert (image.was, image.elf_path) == ("ELF", str(path))
        assert image.kernel().entry == 0x100000
        assert image.with_hash().sha256 is not None
    image.close()


def test_the_real_bzimage(vmlinuz: Path, vmlinux: Path) -> None:
    with open_kernel(str(vmlinuz)) as packed, open_kernel(str(vmlinux)) as plain:
        assert packed.kernel().build_id == plain.kernel().build_id
        assert packed.was.startswith("bzImage")


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_truncated_payload_is_told(tmp_path: Path, packer: str, cut: float) -> None:
    packed = PACKERS[packer](ELF)
    path = tmp_path / "vmlinuz"
    path.write_bytes(packed[: int(len(packed) * cut)])
    with pytest.raises(BadInput) as error:
        open_kernel(str(path))
    assert packer in error.value.what or "ELF" in error.value.what
    assert error.value.todo


@pytest.fixture
def no_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python as GDB has it: without what pip installs, beside the program zstd."""
    need("zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)


@pytest.mark.usefixtures("no_zstandard")
@pytest.mark.parametrize("wrap", [bzimage, lambda payload, _: payload], ids=["bzImage", "file"])
def test_without_the_module_the_program_unpacks_zstd(tmp_path: Path, wrap: Callable[[bytes, int], bytes]) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(wrap(PACKERS["zstd"](ELF), len(ELF)))
    with open_kernel(str(path)) as image:
        assert bytes(image.data[:]) == ELF


@pytest.mark.usefixtures("no_zstandard")
def test_without_the_module_damage_and_bombs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vmlinuz"
    big = ELF + bytes(range(256)) * 8192  # more than zstd unpacks before it finds the end missing
    path.write_bytes(bzimage(PACKERS["zstd"](big)[:-300], len(big)))
    with pytest.raises(BadInput, match="zstd data") as error:
        open_kernel(str(path))
    assert "damaged" in error.value.todo
    monkeypatch.setattr(pvhdbg.kernel.unpack, "UNPACKED_BOUND", 1 << 20)
    path.write_bytes(bzimage(PACKERS["zstd"](big), len(big)))
    with pytest.raises(BadInput, match="unpacks to more"):
        open_kernel(str(path))


@pytest.mark.usefixtures("no_zstandard")
def test_with_neither_it_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(PACKERS["zstd"](ELF), len(ELF)))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="neither") as error:
        open_kernel(str(path))
    assert "pvhdbg extract" in error.value.todo


@pytest.mark.slow
@pytest.mark.parametrize("packer", ["gzip", "xz", "bzip2", "zstd", "lz4"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, packer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pvhdbg.kernel.unpack, "UNPACKED_BOUND", 4 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(PACKERS[packer](b"\x7fELF" + bytes(64 << 20)))
    with pytest.raises(BadInput, match="more than"):
        open_kernel(str(path))


OPEN = """
import resource, sys
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
open_kernel(sys.argv[1]).close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_kernel(sys.argv[2])
except BadInput as error:
    print(error.what)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("packer", ["gzip", "xz", "bzip2", "zstd"])
def test_a_small_bomb_takes_little_memory_whatever_its_size(tmp_path: Path, packer: str) -> None:
    good, bomb = tmp_path / "good", tmp_path / "bomb"
    good.write_bytes(PACKERS[packer](ELF))
    bomb.write_bytes(PACKERS[packer](b"\x7fELF" + bytes(400 << 20)))
    ran = subprocess.run([sys.executable, "-c", OPEN, str(good), str(bomb)], capture_output=True, text=True, check=True)
    words, kib = ran.stdout.splitlines()
    assert "more than" in words
    assert int(kib) < 48 << 10


def written(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "kernel"
        path.write_bytes(data)
        return path

    return write


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing", "no file"),
        (lambda folder: folder, "directory"),
        (fifo, "not a regular file"),
        (written(b""), "empty"),
        (written(b"#!/bin/sh\n"), "script"),
        (written(b"MZ" + bytes(600)), "EFI"),
        (written(bytes(0x202) + b"HdrS" + struct.pack("<H", 0x204) + bytes(0x60)), "2.04"),
        (written(bzimage(b"unknown!", 8)), "unknown format"),
        (written(bzimage(PACKERS["gzip"](b"no kernel"), 9)), "no ELF"),
        (written(bzimage(PACKERS["gzip"](ELF), len(ELF))[:2000]), "payload ends"),
    ],
)  # fmt: skip
def test_what_is_no_kernel(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(BadInput) as error:
        open_kernel(str(make(tmp_path)))
    assert words in error.value.what
    assert error.value.todo


def test_a_kernel_that_may_not_be_read(tmp_path: Path) -> None:
    path = written(ELF)(tmp_path)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root reads every file
    try:
        with pytest.raises(BadInput) as error:
            open_kernel(str(path))
    finally:
        if root:
            os.seteuid(0)
    assert "sudo cp" in error.value.todo


def test_extract_writes_the_whole_elf_or_nothing(tmp_path: Path) -> None:
    source = tmp_path / "vmlinuz"
    source.write_bytes(bzimage(PACKERS["xz"](ELF), len(ELF)))
    assert extract(str(source), str(tmp_path / "vmlinux")) == "bzImage (xz)"
    assert (tmp_path / "vmlinux").read_bytes() == ELF
    with pytest.raises(BadInput, match="image itself"):
        extract(str(source), str(source))
    with pytest.raises(BadInput, match="cannot be written"):
        extract(str(source), str(tmp_path / "no" / "vmlinux"))
    source.write_bytes(b"junk")
    with pytest.raises(BadInput):
        extract(str(source), str(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vmlinux", "vmlinuz"]


def test_extract_writes_through_a_link_and_never_replaces_it(tmp_path: Path) -> None:
    source, target, link = tmp_path / "vmlinuz", tmp_path / "target", tmp_path / "link"
    source.write_bytes(PACKERS["gzip"](ELF))
    target.write_bytes(b"old")
    link.symlink_to(target)
    extract(str(source), str(link))
    assert link.is_symlink()
    assert target.read_bytes() == ELF
    with pytest.raises(BadInput, match="cannot be written"):
        extract(str(source), str(tmp_path))
    assert tmp_path.is_dir()


def test_memory_tells_whether_it_is_the_loaded_kernel(tmp_path: Path) -> None:
    with open_kernel(str(written(ELF)(tmp_path))) as image:
        load = image.elf.loads[0]
        memory = bytes(image.data[load.p_offset : load.p_offset + load.p_filesz])

        def read(address: int, size: int) -> bytes:
            return memory[address - load.p_paddr : address - load.p_paddr + size]

        assert image.is_loaded(read)
        assert not image.is_loaded(lambda address, size: bytes(size))
        assert not image.is_loaded(lambda address, size: (_ for _ in ()).throw(BadInput("gone")))


@settings(deadline=None, max_examples=examples(60))
@given(st.integers(0, 0x250), st.binary(max_size=16), st.sampled_from(sorted(PACKERS)))
def test_mutated_images_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes, packer: str) -> None:
    data = bytearray(bzimage(PACKERS[packer](ELF), len(ELF)))
    data[at : at + len(put)] = put
    path = tmp_path_factory.mktemp("image") / "kernel"
    path.write_bytes(bytes(data))
    try:
        open_kernel(str(path)).close()
    except BadInput as error:
        assert error.todo  # noqa: PT017 - any other exception fails the test
