"""`pvhdbg elf` on real files, compared with readelf, nm and the entry that QEMU really uses; and on bad ones."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pvhdbg.commands.kernel import ElfOptions, file_report
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.loaders.catalogue import LOADERS
from pvhdbg.report import kernel_json, kernel_text
from pvhdbg.spec.elf import PT_LOAD, PT_NOTE
from tests.support.cli_runner import HELLO, HELLO_ENTRY, Cli, Machine
from tests.support.elf_writer import NoteSpec, Piece, Program, RawNotes, SymbolSpec, build_elf
from tests.support.programs import need
from tests.support.real_kernel import code_at, noted_entry
from tests.support.schemas import valid

SARIF = Path(__file__).parent.parent / "report/schemas/sarif-2.1.0.json"


def looked_into(path: Path | str) -> Any:
    with open_kernel(str(path)) as image:
        return valid(kernel_json.document(file_report(image, ElfOptions())))


def readelf_notes(path: Path | str) -> list[tuple[str, int]]:
    """Owner and descriptor size of each note of the program headers, in order, as readelf reads them."""
    words = ["readelf", "-nW", str(path)]
    listing = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [(owner, int(size, 16)) for owner, size in re.findall(r"^  (\S+) +0x([0-9a-f]{8})\t", listing, re.MULTILINE)]


def readelf_loads(path: Path | str) -> list[tuple[int, int, int]]:
    """p_offset, p_paddr and p_memsz of each PT_LOAD."""
    listing = subprocess.run(["readelf", "-lW", str(path)], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^  LOAD +0x(\w+) 0x\w+ 0x(\w+) 0x\w+ 0x(\w+) ", listing, re.MULTILINE)
    return [(int(offset, 16), int(paddr, 16), int(memsz, 16)) for offset, paddr, memsz in rows]


def objdumped(code: bytes, address: int, folder: Path) -> list[tuple[int, str]]:
    """Address and mnemonic of each instruction of 32-bit code, as objdump reads it."""
    (folder / "code").write_bytes(code)
    words = [
        "objdump",
        "-D",
        "-b",
        "binary",
        "-m",
        "i386",
        "-M",
        "intel",
        "--no-show-raw-insn",
        f"--adjust-vma={address:#x}",
        "code",
    ]
    listing = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    return [(int(at, 16), name) for at, name in re.findall(r"^ *([0-9a-f]+):\t(\S+)", listing, re.MULTILINE)]


def agrees_with_readelf(document: Any, path: Path | str) -> None:
    assert sorted((one["owner"], one["desc_size"]) for one in document["notes"]) == sorted(readelf_notes(path))
    loads = [one for one in document["segments"] if one["type"] == "LOAD"]
    assert [(int(one["offset"], 16), int(one["paddr"], 16), one["memsz"]) for one in loads] == readelf_loads(path)


def qemu_of(document: Any) -> Any:
    return next(one for one in document["loaders"] if one["loader"] == "qemu")


def entered(cli: Cli, kernel: Path | str) -> Any:
    """How the real QEMU enters the file, by `check`: the protocol's key and the address."""
    ran = cli("check", str(kernel), "--format", "json")
    report = ran.json()
    return report["protocol"]["name"], report["entry"]["address"]


# --- real files ---------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_hello(cli: Cli) -> None:
    document = valid(cli("elf", HELLO, "--format", "json").ok().json())
    agrees_with_readelf(document, HELLO)
    assert document["entry"]["address"] == f"{HELLO_ENTRY:#x}"
    assert document["entry"]["symbol"] == "pvh_start"
    assert document["entry"]["code"][0]["text"].startswith("mov esp, ")
    assert [one["loader"] for one in document["loaders"]] == [one.name for one in LOADERS]
    assert (qemu_of(document)["protocol"], qemu_of(document)["entry"]) == entered(cli, HELLO)
    assert document["exit_code"] == 0


@pytest.mark.boot
def test_debians_kernel(cli: Cli, vmlinux: Path) -> None:
    document = looked_into(vmlinux)
    agrees_with_readelf(document, vmlinux)
    named = {one["name"]: one for one in document["notes"]}
    assert named["GUEST_OS"]["value"] == "“linux”"
    assert named["PHYS32_ENTRY"]["value"] == document["entry"]["address"]
    assert "bit 15: linux_rsdp_unrestricted" in named["SUPPORTED_FEATURES"]["parts"]
    assert named["L1_MFN_VALID"]["parts"] == ["mask 0x1, value 0x1"]
    assert document["file"]["build_id"] == named["BUILD_ID"]["value"]
    assert document["file"]["tool"] == "Linux Kconfig"
    assert document["entry"]["address"] == f"{noted_entry(vmlinux):#x}"
    shown = [(int(one["address"], 16), one["text"].split()[0]) for one in document["entry"]["code"]]
    assert len(shown) > 5
    by_objdump = objdumped(code_at(vmlinux, noted_entry(vmlinux), 128), noted_entry(vmlinux), cli.folder)[: len(shown)]
    assert [at for at, _ in shown] == [at for at, _ in by_objdump]
    assert all(its.startswith(ours) for (_, ours), (_, its) in zip(shown, by_objdump, strict=True))  # lgdt is lgdtd there
    assert (qemu_of(document)["protocol"], qemu_of(document)["entry"]) == entered(cli, vmlinux)


def test_the_same_kernel_as_a_bzimage_holds_the_same_elf(vmlinux: Path, vmlinuz: Path) -> None:
    packed, plain = looked_into(vmlinuz), looked_into(vmlinux)
    assert packed["file"]["container"] == "bzImage"
    assert packed["file"]["efi"] is True
    for part in ("entry", "notes", "segments", "verdicts"):
        assert packed[part] == plain[part]
    assert qemu_of(packed)["protocol"] == "linux16"
    assert qemu_of(plain)["protocol"] == "pvh"


@pytest.mark.boot
def test_xens_shim_is_entered_by_multiboot(cli: Cli, xen_shim: Path) -> None:
    document = looked_into(xen_shim)
    agrees_with_readelf(document, xen_shim)
    assert [one["version"] for one in document["file"]["multiboot"]] == [1, 2]
    assert {one["rule"] for one in document["verdicts"] if one["outcome"] == "fail"} == {"ELF-MULTIBOOT"}
    assert (qemu_of(document)["protocol"], qemu_of(document)["entry"]) == entered(cli, xen_shim) == ("multiboot1", "0x200000")


def test_the_xen_hypervisor_inside_its_gzip(xen_gz: Path, tmp_path: Path) -> None:
    document = looked_into(xen_gz)
    assert (document["file"]["container"], document["file"]["class"]) == ("gzip", 32)
    inner = tmp_path / "xen"
    with open_kernel(str(xen_gz)) as image:
        inner.write_bytes(image.data[:])
    agrees_with_readelf(document, inner)
    has_note = any(one["name"] == "PHYS32_ENTRY" for one in document["notes"])
    assert document["exit_code"] == (0 if has_note else 1)


@pytest.mark.boot
def test_grubs_pvh_image(cli: Cli, grub_pvh: Path) -> None:
    document = looked_into(grub_pvh)
    agrees_with_readelf(document, grub_pvh)
    assert document["notes"][0]["section"] == ".xen"
    assert (qemu_of(document)["protocol"], qemu_of(document)["entry"]) == entered(cli, grub_pvh)


# --- what can be asked for ----------------------------------------------------------------------------------------


def test_as_narrows_the_loaders(cli: Cli) -> None:
    document = cli("elf", HELLO, "--as", "firecracker,qemu", "--format", "json").ok().json()
    assert [one["loader"] for one in document["loaders"]] == ["firecracker", "qemu"]
    cli("elf", HELLO, "--as", "firecraker").complaint(2, "firecraker", "firecracker")
    cli("elf", HELLO, "--as", ",").complaint(2, "--as")


def test_sarif_meets_the_standards_schema(cli: Cli) -> None:
    cli.file("bad", build_elf(multiboot=True, notes=((NoteSpec(),), (NoteSpec(3, b"GNU\0", bytes(20)),))))
    log = cli("elf", "bad", "--format", "sarif").ok(0).json()
    jsonschema.Draft7Validator(json.loads(SARIF.read_text())).validate(log)
    results = log["runs"][0]["results"]
    assert {"ELF-MULTIBOOT", "ELF-NOTE-LASTSEG"} <= {one["ruleId"] for one in results}
    assert all("fix: " in one["message"]["text"] for one in results if one["kind"] == "fail")
    assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "bad"


def test_strict_and_a_choice_of_rules(cli: Cli) -> None:
    cli.file("mb", build_elf(multiboot=True))
    assert "1 FAIL" in cli("elf", "mb").ok(0).out
    cli("elf", "mb", "--strict").ok(1)
    cli("elf", "mb", "--strict", "--ignore", "ELF-MULTIBOOT").ok(0)
    assert "1 FAIL (exit" in cli("elf", "mb", "--select", "ELF-MULTIBOOT").ok(0).out


def test_symbols_by_name_and_by_address_as_nm_has_them(cli: Cli) -> None:
    need("nm")
    for line in subprocess.run(["nm", HELLO], capture_output=True, text=True, check=True).stdout.splitlines():
        address, _, name = line.split()
        if name.startswith("."):
            continue
        found = valid(cli("elf", HELLO, "--symbol", name, "--format", "json").ok().json())
        assert found["virtual"] == found["physical"] == f"{int(address, 16):#x}"
        break
    near = cli("elf", HELLO, "--symbol", hex(HELLO_ENTRY + 5)).ok().out
    assert near.startswith("pvh_start+0x5 ")
    cli("elf", HELLO, "--symbol", "pvh_stat").complaint(2, "pvh_start")
    cli("elf", HELLO, "--symbol", "0xdead00000000").complaint(2, "no segment has a symbol")


def test_symbols_of_a_higher_half_kernel_have_both_addresses(cli: Cli) -> None:
    base = 0xFFFFFFFF80000000
    cli.file("high", build_elf(vaddr=base + 0x100000, symbols=(SymbolSpec("start_kernel", base + 0x100004),)))
    by_name = cli("elf", "high", "--symbol", "start_kernel", "--format", "json").ok().json()
    assert (by_name["virtual"], by_name["physical"]) == ("0xffffffff80100004", "0x100004")
    assert cli("elf", "high", "--symbol", "0x100006", "--format", "json").ok().json() == {**by_name, "offset": 2} | {
        "virtual": "0xffffffff80100006", "physical": "0x100006"
    }  # fmt: skip


def test_a_structure_by_the_kernels_debug_info(cli: Cli) -> None:
    need("gcc")
    cli.file("k.c", "struct start { unsigned magic; unsigned long long rsdp; char name[3]; };\n"
                    "struct start found;\nvoid pvh(void) { found.magic = 1; for (;;); }\n")  # fmt: skip
    words = ["gcc", "-g", "-ffreestanding", "-nostdlib", "-static", "-Wl,-e,pvh", "k.c", "-o", "k"]
    subprocess.run(words, cwd=cli.folder, check=True, capture_output=True)
    layout = valid(cli("elf", "k", "--type", "start", "--format", "json").ok().json())
    assert [(one["name"], one["offset"], one["size"], one["type"]) for one in layout["members"]] == [
        ("magic", 0, 4, "unsigned int"), ("rsdp", 8, 8, "long long unsigned int"), ("name", 16, 3, "char[3]"),
    ]  # fmt: skip
    assert cli("elf", "k", "--symbol", "pvh").ok().out.rstrip().endswith("k.c:3")
    cli("elf", "k", "--type", "stop").complaint(2, "stop")
    packed = ["objcopy", "--compress-debug-sections=zlib-gnu", "k", "packed"]
    subprocess.run(packed, cwd=cli.folder, check=True, capture_output=True)
    assert "no line: " in cli("elf", "packed", "--symbol", "pvh").ok().out  # its address is known all the same
    cli("elf", HELLO, "--type", "start").complaint(2, "debug info")
    cli("elf", "k", "--type", "start", "--symbol", "pvh").complaint(2, "--symbol")


def test_text_of_a_hostile_file_steers_no_terminal(cli: Cli) -> None:
    evil = b"\x1b]0;owned\x07\x9b31m\r\n"
    notes = (NoteSpec(type=6, desc=evil), NoteSpec(owner=evil + b"\0"), NoteSpec(10, desc=b"!" + evil + b"|\0"), NoteSpec())
    cli.file("evil", build_elf(notes=(notes,), symbols=(SymbolSpec("\x1b[31mpvh", 0x100000),)))
    ran = cli("elf", "evil").ok(0)
    assert all(letter.isprintable() or letter == "\n" for letter in ran.out)
    valid(cli("elf", "evil", "--format", "json").ok(0).json())


# --- fw_cfg -------------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_fw_cfg_of_a_real_qemu_is_as_the_simulator_says(cli: Cli, xen_shim: Path) -> None:
    document = valid(cli("fwcfg", HELLO, "--append", "one two", "--format", "json").ok().json())
    items = {one["name"]: one for one in document["items"]}
    assert document["expected"] == "pvh"
    assert items["KERNEL_ENTRY"]["value"] == items["KERNEL_ENTRY"]["expected"] == f"{HELLO_ENTRY:#x}"
    assert bytes.fromhex(items["CMDLINE_DATA"]["value"]) == b"one two\0"
    assert not [one for one in document["items"] if one["agrees"] is False]
    shim = valid(cli("fwcfg", xen_shim, "--format", "json").ok().json())
    assert shim["expected"] == "multiboot1"
    assert not [one for one in shim["items"] if one["agrees"] is False]


def test_fw_cfg_of_a_machine_with_another_kernel_differs(cli: Cli, machine: Callable[..., Machine]) -> None:
    stub = machine()
    cli.file("other", build_elf(entry=0x200000, paddr=0x200000, notes=((NoteSpec(desc=b"\0\0\x20\0"),),)))
    ran = cli("fwcfg", stub.socket, "--kernel", "other").ok(1)
    assert "KERNEL_ENTRY   0x100000                                 0x200000" in ran.out
    assert "DIFFERS" in ran.out
    assert "nothing is expected" in cli("fwcfg", stub.socket).ok().out
    cli("fwcfg", "--cpu", "max", stub.socket).complaint(2, "--cpu")


# --- bad files ----------------------------------------------------------------------------------------------------


def with_field(offset: int, value: int, size: int) -> bytes:
    """hello.elf with one field of its headers set."""
    data = bytearray(Path(HELLO).read_bytes())
    data[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(data)


_PHOFF, _PHENTSIZE, _PHNUM, _FIRST = 32, 54, 56, 64
BAD = {
    "empty": (b"", "empty"),
    "one byte": (b"\x7f", "not an ELF"),
    "text": (b"#!/bin/sh\necho hello\n", "not an ELF"),
    "cut in the ELF header": (build_elf()[:40], "truncated"),
    "cut in the program headers": (build_elf()[:100], "program header"),
    "cut in a segment": (build_elf()[:-8], "p_offset"),
    "e_phoff past the end": (with_field(_PHOFF, 1 << 40, 8), "program header 0"),
    "e_phoff that wraps": (with_field(_PHOFF, (1 << 64) - 8, 8), "program header 0"),
    "e_phnum 0xffff": (with_field(_PHNUM, 0xFFFF, 2), "e_phnum"),
    "e_phnum 0": (with_field(_PHNUM, 0, 2), "program headers"),
    "e_phentsize 0": (with_field(_PHENTSIZE, 0, 2), "e_phentsize"),
    "p_offset past the end": (with_field(_FIRST + 8, 1 << 50, 8), "p_offset"),
    "p_filesz that wraps": (with_field(_FIRST + 32, (1 << 64) - 1, 8), "p_offset"),
    "p_memsz that wraps": (with_field(_FIRST + 40, (1 << 64) - 1, 8), "p_memsz"),
    "big-endian": (build_elf(data=2), "endian"),
    "a core": (with_field(16, 4, 2), "is a core"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_the_field(cli: Cli, name: str) -> None:
    data, word = BAD[name]
    cli.file("bad", data)
    cli("elf", "bad").complaint(2, word)


@pytest.mark.parametrize("size", [(0xFFFFFFFF, 4), (4, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)], ids=["namesz", "descsz", "both"])
def test_notes_of_four_gib_end_the_notes_and_say_where(cli: Cli, size: tuple[int, int]) -> None:
    raw = b"".join(value.to_bytes(4, "little") for value in (*size, 18)) + b"Xen\0" + bytes(16)
    cli.file("bad", build_elf(notes=((RawNotes(raw),),)))
    ran = cli("elf", "bad").ok(1)
    assert "n_descsz" in ran.out
    assert "note at file offset" in ran.out


def test_what_is_no_regular_file(cli: Cli) -> None:
    os.mkfifo(cli.folder / "fifo")
    (cli.folder / "folder").mkdir()
    for name in ("fifo", "folder", "missing", "/dev/zero"):
        cli("elf", name).complaint(2, name)


def test_a_file_that_may_not_be_read(cli: Cli) -> None:
    path = cli.file("locked", build_elf())
    os.chmod(path, 0)
    os.chmod(cli.folder, 0o755)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # nobody: root may read everything
        with pytest.raises(BadInput, match="locked"):
            open_kernel(path)
    finally:
        os.seteuid(user)


def test_the_legacy_section_is_shown(cli: Cli) -> None:
    cli.file("old", build_elf(notes=(), section_notes=(NoteSpec(),)))
    ran = cli("elf", "old").ok(1)
    assert "ELF-NOTE-PTNOTE" in ran.out
    assert "section .note.Xen" in ran.out


FREEBSD = 0xFFFFFFFF80000000  # KERNBASE


def freebsd(paddr_offset: int) -> bytes:
    """FreeBSD's kernel of 2015 by the program headers in the Draft A mail: p_paddr is p_vaddr. Contents are cut to the headers' room."""
    notes = NoteSpec(4, desc=paddr_offset.to_bytes(8, "little")).encode() + NoteSpec(desc=(0x200000).to_bytes(4, "little")).encode()
    return Program(
        (
            Piece(PT_LOAD, b"\xf4" * 64, FREEBSD + 0x200000, memsz=0x1055B30, flags=5, align=0x200000),
            Piece(PT_LOAD, b"\0" * 64, FREEBSD + 0x1455B30, memsz=0x532348, flags=6, align=0x200000),
            Piece(PT_NOTE, notes, 0, memsz=0, flags=4),
        ),
        entry=FREEBSD + 0x200000,
    ).encode()


def test_freebsds_kernel_of_2015_by_both_readings_of_p_paddr() -> None:
    text, document = _both(freebsd(FREEBSD))
    assert [one["paddr"] for one in document["segments"][:2]] == ["0xffffffff80200000", "0xffffffff81455b30"]
    assert "p_paddr - PADDR_OFFSET (0xffffffff80000000): 0x200000 … 0x1455b30" in text
    assert text.count("above 4 GiB, which 32-bit code at the entry cannot reach") == 2
    failed = {one["rule"]: one for one in document["verdicts"] if one["outcome"] == "fail"}
    assert {"ELF-PADDR", "ELF-ENTRY-RANGE"} <= set(failed)
    assert "(minus PADDR_OFFSET 0xffffffff80000000: 0x200000)" in failed["ELF-PADDR"]["violations"][0]["found"]
    assert "AT(ADDR(.text) - VIRT_BASE)" in failed["ELF-PADDR"]["violations"][0]["fix"]
    # As is, which is how all loaders read it: Xen does not find the entry in the image.
    assert next(one for one in document["loaders"] if one["loader"] == "xen")["refusal"]


def test_without_paddr_offset_there_is_one_reading() -> None:
    text, document = _both(freebsd(0))
    assert "Draft A reads" not in text
    assert document["paddr_offset"] == "0x0"


def _both(data: bytes) -> tuple[str, Any]:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with open_kernel(file.name) as image:
            report = file_report(image, ElfOptions())
    return kernel_text.render(report), valid(kernel_json.document(report))


def test_a_build_id_in_a_section_alone_is_one_too() -> None:
    _, document = _both(build_elf(section_notes=(NoteSpec(3, b"GNU\0", bytes(range(20))),)))
    assert document["file"]["build_id"] == bytes(range(20)).hex()


def test_loaders_refuse_what_does_not_fit_into_memory(cli: Cli, vmlinux: Path) -> None:
    """Linux is linked at 16 MiB and has some 40 MiB."""
    whole = ("elf", vmlinux, "--as", "firecracker,libkrun,alioth,xen", "--format", "json")
    fits = {one["loader"]: one["refusal"] for one in cli(*whole, "--memory", "512M").json()["loaders"]}
    assert set(fits.values()) == {None}
    small = {one["loader"]: one["refusal"] for one in cli(*whole, "--memory", "8M").json()["loaders"]}
    assert all(small.values())
    assert "segment padding too large (0x1000 > 0x800 - 0x0 pages)" in small["xen"]
    middle = {one["loader"]: one["refusal"] for one in cli(*whole, "--memory", "32").json()["loaders"]}
    assert "segment kernel too large" in middle["xen"]
    assert "KRUN_KERNEL_FORMAT_ELF" in cli("elf", vmlinux, "--as", "libkrun").out
    cli("elf", vmlinux, "--memory", "much").complaint(2, "not a size")
