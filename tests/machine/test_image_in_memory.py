"""What lies in memory at the entry, compared with the kernel's file, on real machines."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import api
from pvhdbg.decode import loaded_image, snapshot_file
from pvhdbg.decode.elf import parse
from pvhdbg.kernel.image import open_kernel
from pvhdbg.model import Backing, BackingKind, ImageDifference, Memory, Snapshot
from pvhdbg.report.document import Report
from pvhdbg.rules.declare import Outcome, Verdict
from pvhdbg.spec.elf import PT_NOTE
from pvhdbg.targets.recorded import RecordedTarget
from tests.support.cli_runner import HELLO, Cli, Machine, kernel_elf, outcomes
from tests.support.elf_writer import ENTRY, NoteSpec, Piece, Program, SymbolSpec, build_elf

CODE = Piece(content=b"\xeb\xfe" + bytes(30))


def noted(entry: int = ENTRY, desc: int = 4) -> Piece:
    return Piece(type=PT_NOTE, content=NoteSpec(desc=entry.to_bytes(desc, "little")).encode(), paddr=0)


def verdict(report: Report, rule: str) -> Verdict:
    (found,) = (one for one in report.verdicts if one.rule.id == rule)
    return found


def failed(report: Report) -> set[str]:
    return {one.rule.id for one in report.verdicts if one.outcome is Outcome.FAIL}


def test_what_is_in_rom_does_not_tell_whose_it_is(cli: Cli) -> None:
    """U-Boot's ELF is linked over the BIOS. One that was booted is compared with ROM, too: it is not there."""
    from pvhdbg.machine.capture import compared

    rom = (Backing(0, 0x100000, BackingKind.RAM), Backing(0x100000, 0x100000, BackingKind.ROM))
    there = RecordedTarget(Snapshot(memory=Memory().with_piece(0x100000, bytes(range(256)) * 16)), "the machine")
    with open_kernel(cli.file("k", kernel_elf())) as image:
        named, booted = (compared(there, image, rom, booted) for booted in (False, True))
    assert (named.another, named.compared) == (False, 0)
    assert booted.differences


# --- where there is RAM -------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize("memory", ["8M", "32M"])
def test_a_kernel_that_does_not_fit_violates(vmlinux: Path, memory: str) -> None:
    report = api.check(str(vmlinux), memory=memory)
    with open_kernel(str(vmlinux)) as image:
        end = max(load.end for load in image.kernel().loads)
    assert report.exit_code == 1
    found = verdict(report, "PVH-LOAD-RAM")
    assert found.outcome is Outcome.FAIL
    edge = max(int(memory[:-1]) << 20, 0x1000000)
    assert any(f"{edge:#x}" in one.found for one in found.violations) or memory == "32M"
    assert f"the kernel ends at {end:#x}: give the machine at least {-(-end // (1 << 20)) + 18}M" in found.violations[0].fix


@pytest.mark.boot
def test_the_memory_that_is_advised_is_enough(vmlinux: Path) -> None:
    advised = verdict(api.check(str(vmlinux), memory="8M"), "PVH-LOAD-RAM").violations[0].fix
    memory = advised.partition("at least ")[2].partition(" ")[0]
    report = api.check(str(vmlinux), memory=memory)
    assert report.exit_code == 0
    assert {verdict(report, f"PVH-LOAD-{what}").outcome for what in ("RAM", "BYTES")} == {Outcome.PASS}


# --- what its bytes are -------------------------------------------------------------------------------------------


def test_what_the_firmware_overwrites_is_named(cli: Cli, machine: Callable[..., Machine]) -> None:
    kernel = cli.file("low", Program((Piece(content=CODE.content, paddr=0x8000), noted(0x8000))).encode())
    report = api.check(kernel)
    assert report.exit_code == 1
    (wrong,) = verdict(report, "PVH-LOAD-BYTES").violations
    assert wrong.at == "[0x8000]"
    assert wrong.expected.startswith("0xeb")
    assert wrong.found == "0x00, in memory_map[0], RAM (0x0 - 0x9fc00)"
    assert "1 MiB or above" in wrong.fix
    attached = cli("check", machine(kernel=kernel).socket, "--kernel", kernel, "--format", "json").ok(1).json()
    assert not any("another kernel" in warning for warning in attached["warnings"])  # it was cleared, not replaced
    assert outcomes(attached)["PVH-LOAD-BYTES"] == "fail"


@pytest.mark.boot
def test_zeros_that_the_firmware_wrote_on_are_named(cli: Cli) -> None:
    kernel = cli.file("bss", Program((CODE, Piece(content=b"data", paddr=0x2000, memsz=0x6000), noted())).encode())
    report = api.check(kernel)
    (wrong,) = verdict(report, "PVH-LOAD-BSS").violations
    assert wrong.expected.startswith("0x00")
    assert verdict(report, "PVH-LOAD-BYTES").outcome is Outcome.PASS
    assert "in start_info" in wrong.found  # pvh.bin's start_info lies in it


@pytest.mark.boot
def test_how_much_was_compared_is_said_and_kept(cli: Cli, vmlinux: Path) -> None:
    said = cli("check", vmlinux).ok().out
    assert "MiB compared with memory: the same" in said
    cli("snapshot", "save", vmlinux, "-o", cli.folder / "one.pvhsnap").ok()
    again = cli("check", cli.folder / "one.pvhsnap", "--format", "json").ok().json()
    judged = outcomes(again)
    assert judged["PVH-LOAD-BYTES"] == judged["PVH-LOAD-RAM"] == "pass"
    assert 0 < again["kernel"]["compared"]["bytes"] < again["kernel"]["compared"]["of"]


@pytest.mark.boot
def test_a_recording_that_compared_nothing_is_undecided(cli: Cli) -> None:
    cli("snapshot", "save", HELLO, "-o", cli.folder / "one.pvhsnap").ok()
    lines = (cli.folder / "one.pvhsnap").read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(' "image": {'))
    last = next(index for index in range(first, len(lines)) if lines[index] == " },")
    old = cli.file("old.pvhsnap", "\n".join([*lines[:first], *lines[last + 1 :]]))
    report = api.check(old)
    assert verdict(report, "PVH-LOAD-BYTES").outcome is Outcome.UNKNOWN
    assert "not compared" in verdict(report, "PVH-LOAD-BYTES").reason


# --- whose file it is ---------------------------------------------------------------------------------------------


def test_another_kernel_that_was_named_is_called_so(cli: Cli, machine: Callable[..., Machine], vmlinux: Path) -> None:
    loaded = machine(kernel=str(vmlinux))
    other = bytearray(vmlinux.read_bytes())
    elf = parse(bytes(other))
    (notes,) = elf.note_spans
    for load in elf.loads:  # another build of it: the same places, other bytes
        for at in range(load.p_offset, load.p_offset + load.p_filesz, 1024):
            if not notes.start <= at < notes.end:
                other[at] ^= 0x5A
    ended = cli("check", loaded.socket, "--kernel", cli.file("other", bytes(other)), "--format", "json")
    document = ended.json()
    assert any("another kernel" in warning for warning in document["warnings"])
    assert outcomes(document)["PVH-LOAD-BYTES"] == "unknown"


def test_the_right_kernel_that_does_not_fit_is_not_called_another(cli: Cli, machine: Callable[..., Machine], vmlinux: Path) -> None:
    loaded = machine("-m", "32M", kernel=str(vmlinux))
    document = cli("check", loaded.socket, "--kernel", vmlinux, "--format", "json").ok(1).json()
    assert not any("another kernel" in warning for warning in document["warnings"])
    assert outcomes(document)["PVH-LOAD-RAM"] == "fail"
    assert outcomes(document)["PVH-LOAD-BYTES"] == "pass"


# --- the entry's address ------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_an_entry_behind_its_symbol_is_remarked(cli: Cli) -> None:
    def kernel(entry: int) -> str:
        note = NoteSpec(desc=entry.to_bytes(4, "little"))
        return cli.file(f"{entry:x}", build_elf(code=b"\x90\xeb\xfe", notes=((note,),), symbols=(SymbolSpec("start", ENTRY),)))

    behind = verdict(api.check(kernel(ENTRY + 1)), "PVH-EIP-SYMBOL")
    assert (behind.outcome, behind.violations[0].found) == (Outcome.REMARK, "start+0x1")
    assert verdict(api.check(kernel(ENTRY)), "PVH-EIP-SYMBOL").outcome is Outcome.PASS
    named = api.check(kernel(ENTRY), entry=hex(ENTRY + 1))  # the code there is reached from the entry
    assert verdict(named, "PVH-EIP-SYMBOL").outcome is Outcome.REMARK


@pytest.mark.boot
def test_an_entry_at_0_is_booted_where_qemu_enters_it(cli: Cli) -> None:
    both = Piece(type=PT_NOTE, content=NoteSpec(desc=bytes(4)).encode() + NoteSpec(5, desc=b"xen-3.0\0").encode(), paddr=0)
    report = api.check(cli.file("zero", Program((CODE, both)).encode()))
    assert (report.boot.snapshot.entry.address, report.boot.snapshot.entry.found_by) == (0, "ELF note")
    assert verdict(report, "ELF-NOTE-18").outcome is Outcome.PASS
    assert verdict(report, "PVH-EIP-NOTE").outcome is Outcome.PASS


@pytest.mark.boot
def test_an_entry_at_0_that_qemu_takes_for_none_is_refused_in_its_words(cli: Cli) -> None:
    kernel = cli.file("zero8", Program((CODE, noted(0, 8))).encode())
    cli("check", kernel).complaint(3, "without PVH ELF Note", "another address")
    verdicts = {one["rule"]: one for one in cli("elf", kernel, "--format", "json").json()["verdicts"]}
    assert (verdicts["ELF-NOTE-18"]["outcome"], verdicts["ELF-NOTE-18"]["severity"]) == ("fail", "SHOULD")


def test_fw_cfgs_entry_0_is_one(cli: Cli, machine: Callable[..., Machine]) -> None:
    """p_align 8: QEMU looks for the descriptor elsewhere than everybody, and finds a low half of 0 there."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", ENTRY) + bytes(4) + struct.pack("<I", 1) + bytes(24)
    kernel = cli.file("align8", Program((CODE, Piece(type=PT_NOTE, content=note, paddr=0, align=8))).encode())
    loaded = machine(kernel=kernel)
    document = cli("check", loaded.socket, "--format", "json").json()
    assert document["entry"] == {"address": "0x0", "found_by": "fw_cfg", "symbol": None}


# --- what is compared, and what it costs --------------------------------------------------------------------------


def test_a_large_kernel_is_sampled_within_the_bound(vmlinux: Path) -> None:
    with open_kernel(str(vmlinux)) as image:
        chosen = loaded_image.samples(image.elf)
        entry = image.kernel().entry or 0
        assert 0.9 * loaded_image.BOUND < sum(one.size for one in chosen) <= loaded_image.BOUND
        places = [entry] + [place for load in image.elf.loads for place in (load.p_paddr, load.p_paddr + load.p_filesz - 1)]
        assert [place for place in places if not any(one.address <= place < one.address + one.size for one in chosen)] == []


def test_a_small_kernel_is_compared_whole() -> None:
    program = Program((Piece(content=bytes(range(256)) * 100, memsz=0x10000), noted())).encode()
    elf = parse(program)
    read = {
        one: bytes(program[one.offset : one.offset + one.size] if one.offset else one.size) for one in loaded_image.samples(elf)
    }
    found = loaded_image.compare(elf, program, read, booted=False)
    assert (found.compared, found.size, found.zeros, found.zero_size) == (25600, 25600, 0x10000 - 25600, 0x10000 - 25600)
    assert not found.differences
    for sample in read:
        spoilt = {one: data[:-1] + b"\xff" if one == sample else data for one, data in read.items()}
        expected = 0 if sample.offset is None else 255
        (one,) = loaded_image.compare(elf, program, spoilt, booted=False).differences or [None]
        assert one is None if expected == 255 else one == ImageDifference(sample.address + sample.size - 1, 0, 255, zeros=True)


def test_segments_that_share_memory_are_left_out() -> None:
    pieces = (Piece(content=bytes(0x3000)), Piece(content=bytes(0x1000), paddr=ENTRY + 0x1000), Piece(content=b"x", paddr=0x400000))
    chosen = loaded_image.samples(parse(Program((*pieces, noted())).encode()))
    assert [one.address for one in chosen] == [0x400000]


def test_what_is_read_lies_in_ram() -> None:
    """A device may act on a read."""
    chosen = loaded_image.samples(parse(Program((Piece(content=bytes(0x3000), memsz=0x4000), noted())).encode()))
    cut = loaded_image.within(chosen, [(ENTRY + 0x800, ENTRY + 0x1800), (ENTRY + 0x3800, ENTRY + 0x9000)])
    first = chosen[0].offset
    assert first is not None
    assert [(one.address - ENTRY, one.size, one.offset) for one in cut] == [(0x800, 0x1000, first + 0x800), (0x3800, 0x800, None)]
    assert loaded_image.within(chosen, None) == list(chosen)


@pytest.mark.boot
def test_a_snapshot_keeps_the_comparison(cli: Cli) -> None:
    snapshot: Any = api.check(HELLO).boot.snapshot
    assert snapshot.image.compared
    assert snapshot_file.decode(snapshot_file.encode(snapshot)).image == snapshot.image
