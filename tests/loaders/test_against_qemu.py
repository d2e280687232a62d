"""The installed QEMU and its simulator, on hundreds of generated kernels: the same refusal, the same death, the same entry."""

import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pvhdbg.decode.fw_cfg import NUMBERS
from pvhdbg.decode.kernel_file import survey
from pvhdbg.errors import BadInput
from pvhdbg.loaders.loading import BootParameters, EntryProtocol, Loader, Loading
from pvhdbg.loaders.qemu import NO_NOTE, QEMU, QEMU_BEFORE
from pvhdbg.loaders.qemu_elf import FAILED
from pvhdbg.model import Vmm
from pvhdbg.spec.start_info import START_MAGIC
from pvhdbg.vmm.qemu import version_of
from tests.loaders import real_qemu
from tests.loaders.generated import MEMORY, MIB, Case, cases
from tests.loaders.real_qemu import Entered
from tests.support.elf_writer import Piece, Program

CASES = cases(600)
# Which simulator speaks for which releases, where that was measured.
GENERATIONS = {(7, 2): QEMU_BEFORE, (10, 0, 2): QEMU_BEFORE, (10, 0, 13): QEMU, (11, 1): QEMU}
_CHUNKS = 12
_AT_ONCE = 2
_HANG = 1.5  # seconds in which every other start has long ended


def simulated(case: Case, path: Path, loader: Loader = QEMU) -> tuple[Loading, BootParameters] | None:
    """The simulator's answer for the file at `path`; None for a file that is refused before any loader is asked."""
    boot = replace(case.boot, kernel_path=str(path).encode(), initrd_path=str(path.with_suffix(".initrd")).encode())
    try:
        return loader.load(survey(case.data), boot), boot
    except BadInput:
        return None


def spot(case: Case, loading: Loading) -> int:
    """The number of the code that the simulator has QEMU enter, in RAM where nothing else writes; 0 where there is none."""
    items = {item.name: item.value for item in loading.fw_cfg}
    start, size = items.get("KERNEL_ADDR"), items.get("KERNEL_SIZE")
    multiboot = loading.protocol is EntryProtocol.MULTIBOOT1
    if not isinstance(start, int) or not isinstance(size, int) or not (multiboot or loading.protocol is EntryProtocol.PVH):
        return 0
    if multiboot and not MIB <= start <= start + size <= MEMORY:  # the option ROM copies it over itself, or to nowhere
        return 0
    by_header = multiboot and any("says where to load" in quirk.text for quirk in loading.quirks)
    spots = case.header_spots if by_header else case.spots
    return next((number for number, address in spots.items() if address == loading.entry), 0)


@pytest.fixture
def loader(qemu: str, folder: Path) -> Loader:
    """The simulator of the installed QEMU's generation, measured: what it says of a file without a note that is longer than its memory.

    Where the version is on the list, the measurement has to agree with it.
    """
    path = folder / "longer.elf"
    path.write_bytes(Program((Piece(content=bytes(64), memsz=32),)).encode())
    words = real_qemu.start(path, BootParameters(memory=MEMORY, machine="pc"), False).words
    generations = {FAILED: QEMU, NO_NOTE: QEMU_BEFORE}
    measured = next((loader for said, loader in generations.items() if said in words), None)
    assert measured is not None, words
    version = Vmm("QEMU", version_of(qemu)).release()
    on_list = [loader for releases, loader in GENERATIONS.items() if version[: len(releases)] == releases]
    assert on_list in ([], [measured])
    return measured


def differences(case: Case, folder: Path, loader: Loader) -> list[str]:
    """What the real QEMU does otherwise than the simulator says."""
    path = folder / f"{case.number}.elf"
    path.write_bytes(case.data)
    answer = simulated(case, path, loader)
    if answer is None or answer[0].undefined is not None:
        return []
    loading, boot = answer
    expected = spot(case, loading)
    hangs = loading.crash is not None and "hangs" in loading.crash
    try:
        seen = real_qemu.start(path, boot, bool(expected), _HANG if hangs else real_qemu.TIME)
    except subprocess.TimeoutExpired:
        return [] if hangs else [f"{case.number}: it hangs, {loading}"]
    wrong = []
    if loading.crash is not None:
        wrong += [f"it lives, status {seen.status}"] if hangs or seen.status >= 0 else []
    elif loading.refusal is not None:
        wrong += (
            [] if seen.status == 1 and loading.refusal in seen.words else [f"status {seen.status}, {seen.words.strip()[:200]!r}"]
        )
    else:
        wrong += [] if seen.items else [f"status {seen.status}, {seen.words.strip()[:200]!r}"]
        for item in loading.fw_cfg:
            if item.name in NUMBERS and item.value is not None and seen.items and seen.items[item.name] != item.value:
                wrong.append(f"{item.name} is {seen.items[item.name]:#x}")
        if seen.option_rom != {"pvh": "pvh", "multiboot1": "multiboot", "linux16": "linuxboot"}[str(loading.protocol)]:
            wrong.append(f"the option ROM is {seen.option_rom}")
        wrong += _not_entered(loading, expected, seen.entered)
    return [f"{case.number}: {what}; simulated: {loading}" for what in wrong]


def _not_entered(loading: Loading, expected: int, entered: Entered | None) -> list[str]:
    if not expected:
        return []
    if entered is None or entered.spot != expected:
        return [f"{entered} is entered, not {expected}"]
    by_pvh = entered.word == START_MAGIC
    by_multiboot = entered.eax == 0x2BADB002 and not by_pvh
    return [] if (by_pvh if loading.protocol is EntryProtocol.PVH else by_multiboot) else [f"by another protocol: {entered}"]


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_qemu_does_what_is_simulated(chunk: int, folder: Path, loader: Loader) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda case: differences(case, folder, loader), CASES[chunk::_CHUNKS]))
    assert [line for lines in found for line in lines] == []


@pytest.mark.slow
def test_the_cases_meet_everything_that_qemu_does() -> None:
    answers = [(case, answer[0]) for case in CASES if (answer := simulated(case, Path("/tmp/x.elf"))) is not None]
    undefined = [loading for _, loading in answers if loading.undefined is not None]
    assert len(answers) - len(undefined) >= 500
    assert all("QEMU reads at file offset" in str(one.undefined) or "wraps" in str(one.undefined) for one in undefined)
    entered = Counter(loading.protocol for case, loading in answers if spot(case, loading))
    assert entered[EntryProtocol.PVH] >= 70
    assert entered[EntryProtocol.MULTIBOOT1] >= 20
    refusals = {loading.refusal for _, loading in answers}
    for words in ("without PVH ELF Note", "give a 32bit one", "elfboot unsupported flags", "overlapping", "invalid header_addr",
                  "initrd is too large", "while loading elf kernel", "while fetching elf kernel"):  # fmt: skip
        assert any(refusal is not None and words in refusal for refusal in refusals), words
    assert any("SIGFPE" in str(loading.crash) for _, loading in answers)
    earlier = [answer[0] for case in CASES if (answer := simulated(case, Path("/tmp/x.elf"), QEMU_BEFORE)) is not None]
    assert any("hangs" in str(loading.crash) for loading in earlier)
    assert any(loading.refusal == FAILED and "10.0.13" in str(loading.quirks) for _, loading in answers)
