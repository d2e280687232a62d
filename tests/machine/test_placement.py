"""Where a kernel lies that its decompressor put somewhere else: a real bzImage under KASLR, and one that is told not to slide.

The oracles are the machine's own: the pc at which it stops, and what the kernel computed for itself (`phys_base`).
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from pvhdbg.commands import live
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.kernel.location import Marks
from pvhdbg.machine.session import Session
from pvhdbg.report.style import PLAIN
from pvhdbg.spec.elf import Segment64
from pvhdbg.targets.remote import RemoteTarget
from tests.support.cli_runner import Cli, Machine
from tests.support.real_kernel import elf_entry, image_start

SLOT = 2 << 20  # what Linux' kernels are aligned to
MEMORY = 256 << 20
WRAP = (1 << 64) - 1


@dataclass
class Booting:
    """A bzImage on its way, and a session that has the ELF that is inside."""

    session: Session
    target: RemoteTarget

    def run_to(self, *addresses: int) -> int:
        """To whichever comes first; the pc."""
        for address in addresses:
            self.target.set_breakpoint(address)
        self.session.resumed()
        self.target.resume()
        self.target.wait(60)
        for address in addresses:
            self.target.clear_breakpoint(address)
        return self.session.registers()["rip"]

    def __call__(self, line: str) -> str:
        return live.run(self.session, line).text(PLAIN)


@contextmanager
def booting(vmlinux: Path, vmlinuz: Path, options: str) -> Iterator[Booting]:
    # -cpu max has RDRAND: without it, the decompressor finds no more entropy than the time.
    machine = Machine("-append", options, "-m", f"{MEMORY >> 20}M", "-cpu", "max", kernel=str(vmlinuz))
    try:
        with machine.debugger() as target, open_kernel(str(vmlinux)) as image:
            yield Booting(Session(target, image), target)
    finally:
        machine.close()


@pytest.mark.boot
def test_a_kernel_that_kaslr_moved(vmlinux: Path, vmlinuz: Path, cli: Cli) -> None:
    entry = elf_entry(vmlinux)  # startup_64, physical
    with booting(vmlinux, vmlinuz, "quiet") as guest:
        assert guest.session.placement.found is False, "it is packed still"
        assert "not at its file's addresses" in guest("symbols")
        assert "start_kernel  not in memory; its physical address by the file" in guest("symbols start_kernel")
        assert guest.session.name_of(entry) is None
        assert any("differs from" in doubt for doubt in guest.session.doubts(guest.session.boot()))

        # At its first instruction the kernel is mapped one to one; a breakpoint waits in every place it can be put.
        moved = guest.run_to(*range(entry % SLOT, MEMORY, SLOT)) - entry
        early = guest.session.placement
        assert (early.found, early.load_bias, early.kaslr_offset) == (True, moved, None)
        assert early.relocation is not None
        assert guest("symbols $rip") == f"{entry + moved:#x} is startup_64\n"
        said = [f"plus {moved:#x} (load bias)", f"KASLR offset {early.relocation:#x}", "not mapped yet"]
        assert [words for words in said if words in guest("symbols")] == [
            words for words, true in zip(said, (moved, early.relocation, True), strict=True) if true
        ]

        # Both addresses of a symbol are right before there are page tables of its own.
        assert guest.session.symbols is not None
        linked = guest.session.symbols.virtual_address("start_kernel")
        physical, virtual = guest.session.placement.aliases("start_kernel")
        assert physical == guest.session.symbols.to_physical(linked) + moved
        assert guest.run_to(physical, virtual) == virtual == linked + early.relocation & WRAP
        late = guest.session.placement
        assert (late.found, late.load_bias, late.kaslr_offset) == (True, moved, early.relocation)
        assert guest.session.name_of(virtual) == "start_kernel"
        assert guest.session.address("start_kernel") == virtual
        base = guest.session.physical(late.physical_of("phys_base"), 8)
        assert int.from_bytes(base, "little") == moved - early.relocation & WRAP
        assert guest.session.linear(virtual, 8) == guest.session.physical(physical, 8)

        # A core has no EFER; its pc, which only 64-bit code can have, says by what scheme its page tables are read.
        core = Path(cli.folder) / "core"
        guest.session.target.monitor(f"dump-guest-memory {core} {image_start(vmlinux) + moved:#x} {64 << 20:#x}")
        by_core = cli("symbols", core, "start_kernel", "--kernel", vmlinux, "--here").ok().out
        assert by_core.startswith(f"start_kernel  now {virtual:#x}, physical {physical:#x},")
        mapped = f"mapped with the KASLR offset {early.relocation:#x}" if early.relocation else "mapped as it was linked"
        assert mapped in cli("symbols", core, "--kernel", vmlinux, "--here").ok().out

        # Somebody who comes now, and did not see it begin, finds the same; a reset forgets it.
        newcomer = Session(guest.target, guest.session.image)
        assert (newcomer.placement.load_bias, newcomer.placement.kaslr_offset) == (moved, early.relocation)
        assert not any("differs from" in doubt for doubt in newcomer.doubts(newcomer.boot()))
        guest.session.forget()
        assert guest.session.kernel_location is None


@pytest.mark.boot
def test_a_kernel_that_is_told_to_stay(vmlinux: Path, vmlinuz: Path) -> None:
    with booting(vmlinux, vmlinuz, "quiet nokaslr") as guest:
        assert guest.session.symbols is not None
        linked = guest.session.symbols.virtual_address("start_kernel")
        assert guest.run_to(linked) == linked
        found = guest.session.placement
        assert (found.found, found.load_bias, found.kaslr_offset, found.relocation) == (True, 0, 0, 0)
        assert "as it was linked" in guest("symbols")
        assert "load bias" not in guest("entry")


# --- what a kernel is known by ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["vmlinux", "small32", "vmlinux32"])
def image(request: pytest.FixtureRequest) -> Iterator[KernelImage]:
    with open_kernel(str(request.getfixturevalue(request.param))) as one:
        yield one


class Loaded:
    """Guest memory with a kernel file's segments in it, moved, and its words that are addresses of its own relocated."""

    def __init__(self, image: KernelImage, moved: int, slide: int = 0) -> None:
        self._image, self._moved, self._slide = image, moved, slide

    def __call__(self, address: int, size: int) -> bytes:
        for load in self._image.elf.loads:
            offset = address - self._moved - load.p_paddr
            if 0 <= offset <= load.p_filesz - size:
                found = bytes(self._image.data[load.p_offset + offset : load.p_offset + offset + size])
                word = int.from_bytes(found, "little")
                return (word + self._slide).to_bytes(size, "little") if size == self._image.elf.bits // 8 else found
        return bytes(size)


@pytest.mark.parametrize(("moved", "slide"), [(0, 0), (0x4A00000, 0x32600000), (-0x800000, -0x200000)])
def test_marks_tell_how_far_a_kernel_was_moved(image: KernelImage, moved: int, slide: int) -> None:
    marks, memory = Marks(image.data, image.elf), Loaded(image, moved, slide)
    assert marks
    assert marks.step == SLOT
    assert marks.at(moved, memory) is True
    assert [other for other in range(-0x1000000, 0x8000000, SLOT) if marks.at(other, memory)] == [moved]
    assert marks.location(moved, memory).relocation == slide


def test_a_patched_kernel_is_still_known_and_noise_is_not(image: KernelImage) -> None:
    marks, memory, noise = Marks(image.data, image.elf), Loaded(image, 0), random.Random(1)

    def patched(address: int, size: int) -> bytes:
        return b"\xcc" * 10 + memory(address + 10, size - 10)

    def random_pointers(address: int, size: int) -> bytes:
        return noise.randbytes(size)

    assert marks.at(0, patched) is True
    assert marks.at(0, random_pointers) is False
    assert marks.location(0, random_pointers).relocation is None


def test_memory_that_cannot_be_read_says_nothing(image: KernelImage) -> None:
    from pvhdbg.errors import MemoryUnreadable

    def unreadable(address: int, size: int) -> bytes:
        raise MemoryUnreadable(address, size, "by no peer")

    marks = Marks(image.data, image.elf)
    assert marks.at(0, unreadable) is None
    assert marks.location(0, unreadable).relocation is None


def test_a_small_kernel_has_nothing_to_be_known_by() -> None:
    from tests.support.cli_runner import HELLO

    with open_kernel(HELLO) as small:
        assert not Marks(small.data, small.elf)


def test_a_file_of_many_large_segments_costs_what_one_of_few_does() -> None:
    """512 program headers may name the same 4 MB, each to be looked through for pointers."""
    random.seed(1)
    content = random.randbytes(4 << 20)
    loads = tuple(Segment64(1, 5, 0, (1 << 63) + number, number << 12, len(content), len(content), 4) for number in range(512))
    elf = SimpleNamespace(loads=loads, bits=64)
    begun = time.process_time()
    marks = Marks(content, elf)  # type: ignore[arg-type]
    assert time.process_time() - begun < 3
    looked: list[int] = []

    def read(address: int, size: int) -> bytes:
        looked.append(address)
        return bytes(size)

    assert marks
    assert marks.at(0, read) is False
    marks.location(0, read)
    assert len(looked) < 4096
