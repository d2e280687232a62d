"""A guest may say anything: the report stays bounded, quick and safe to print, over a live stub and from a file."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pvhdbg.targets.remote import RemoteTarget
from tests.support.cli_runner import HELLO, HELLO_ENTRY, Cli, Machine, Ran, scratch

QUICK = 3.0  # seconds
MEMORY = 400 << 20  # bytes of address space
FREE = 0x1000000  # guest memory that is not used, 16 MiB up
ESCAPES = b"\x1b]0;owned\x07\x1b[2J\x9b31m\xe2\x80\xae\r\ninjected: line"

# start_info: magic, version, flags, nr_modules, modlist, cmdline, rsdp, memmap_paddr, memmap_entries, reserved
MODULES, MODLIST, CMDLINE, RSDP, MEMMAP, ENTRIES = 12, 16, 24, 32, 40, 48


@dataclass
class Held:
    """A guest that stands at its entry, and where its start_info is."""

    machine: Machine
    start_info: int

    def patch(self, change: Callable[[RemoteTarget, int], None]) -> None:
        with self.machine.debugger() as target:
            change(target, self.start_info)


@pytest.fixture(scope="module")
def held() -> Iterator[Held]:
    """One boot for all: each test puts back what it patched by patching the whole structure and ebx."""
    machine = Machine()
    try:
        with machine.debugger() as target:
            target.set_breakpoint(HELLO_ENTRY)
            target.resume()
            target.wait(10)
            address = target.read_registers()["ebx"]
        yield Held(machine, address)
    finally:
        machine.close()


@pytest.fixture(autouse=True)
def _put_back(held: Held) -> Iterator[None]:
    with held.machine.debugger() as target:
        before = target.read_memory(held.start_info, 56)
    yield
    with held.machine.debugger() as target:
        target.write_register("rbx", held.start_info)
        target.write_memory(held.start_info, before)
        target.write_memory(FREE, bytes(1 << 20))


def safe(ran: Ran) -> None:
    """Nothing in the output steers a terminal, and it is of a length that somebody reads."""
    text = ran.out + ran.err
    assert all(letter.isprintable() or letter == "\n" for letter in text), [x for x in text if not x.isprintable() and x != "\n"]
    assert "\ninjected" not in text
    assert len(text) < 300_000


def looked_at(cli: Cli, held: Held, *codes: int) -> dict[str, Any]:
    """The JSON report of the machine as it is now: the same live and from a file, both quick, as text safe to print."""
    saved = str(cli.folder / "a.pvhsnap")
    live = cli("check", held.machine.socket, "--here", "--format", "json").ok(codes[0])
    assert live.seconds < QUICK
    for words in (("check", held.machine.socket, "--here"), ("info", held.machine.socket, "--here")):
        ran = cli(*words)
        assert ran.code in (*codes, 0)
        safe(ran)
    cli("snapshot", "save", held.machine.socket, "--here", "-o", saved).ok()
    filed = bounded(cli, "check", saved, "--format", "json")
    assert filed.seconds < QUICK
    document: dict[str, Any] = live.json()
    # A snapshot holds no kernel file.
    assert filed.json()["verdicts"] == [one for one in document["verdicts"] if not one["rule"].startswith("ELF-")]
    safe(bounded(cli, "check", saved))
    return document


def bounded(cli: Cli, *words: str) -> Ran:
    """Run the command with little memory."""
    limit = f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY})); "
    code = limit + "from pvhdbg.cli.program import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cli.env
    ) as process:
        ran = cli.ended(process)
    assert ran.code in (0, 1, 2), ran.err
    assert "Traceback" not in ran.err
    return ran


def failed(document: dict[str, Any]) -> set[str]:
    return {verdict["rule"] for verdict in document["verdicts"] if verdict["outcome"] == "fail"}


pytestmark = pytest.mark.boot


@pytest.mark.parametrize("address", [0, 1, 0x9FFFF, 0xA0000, 0x3FFFFFC, 0x40000000, 0xFEC00000, 0xFFFFFFFF])
def test_start_info_points_to_nowhere(cli: Cli, held: Held, address: int) -> None:
    held.patch(lambda target, _: target.write_register("rbx", address))
    document = looked_at(cli, held, 1)
    assert document["start_info"] is None
    assert document["start_info_missing"]
    assert failed(document)


@pytest.mark.parametrize("count", [65, 513, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("field", [MODULES, ENTRIES])
def test_absurd_counts(cli: Cli, held: Held, field: int, count: int) -> None:
    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(at + field, struct.pack("<I", count))
        target.write_memory(at + MODLIST, struct.pack("<Q", FREE))

    held.patch(change)
    document = looked_at(cli, held, 1)
    listed = document["start_info"]["modules" if field == MODULES else "memory_map"]
    assert 0 < len(listed) <= 512
    assert document["start_info"]["nr_modules" if field == MODULES else "memmap_entries"] == count


@pytest.mark.parametrize("pointer", [MODLIST, CMDLINE, RSDP, MEMMAP])
@pytest.mark.parametrize("address", [0x3FFFFFF, 0x50000000, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000])
def test_pointers_to_nowhere(cli: Cli, held: Held, pointer: int, address: int) -> None:
    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(at + pointer, struct.pack("<Q", address))
        if pointer == MODLIST:
            target.write_memory(at + MODULES, struct.pack("<I", 3))

    held.patch(change)
    document = looked_at(cli, held, 1)
    assert failed(document)


def test_a_command_line_that_never_ends(cli: Cli, held: Held) -> None:
    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(at + CMDLINE, struct.pack("<Q", FREE))
        target.write_memory(FREE, bytes(random.Random(1).choices(range(33, 127), k=1 << 17)))  # hardly compresses

    held.patch(change)
    document = looked_at(cli, held, 1)
    assert len(document["start_info"]["command_line"]) <= 4096
    assert document["start_info"]["command_line_missing"]


def test_a_command_line_up_to_the_end_of_memory(cli: Cli, held: Held) -> None:
    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(at + CMDLINE, struct.pack("<Q", 0x4000000 - 5000))
        target.write_memory(0x4000000 - 5000, b"A" * 5000)

    held.patch(change)
    looked_at(cli, held, 1)


def test_a_command_line_that_steers_terminals(cli: Cli, held: Held) -> None:
    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(at + CMDLINE, struct.pack("<Q", FREE))
        target.write_memory(FREE, ESCAPES + b"\0")

    held.patch(change)
    document = looked_at(cli, held, 1)
    assert "owned" in document["start_info"]["command_line"]
    ran = cli("check", held.machine.socket, "--here", "--color", "always").ok(1)
    assert "\x1b]" not in ran.out
    assert "\x1b[2J" not in ran.out
    raw = cli("check", held.machine.socket, "--here", "--format", "json").ok(1).out
    assert "\x1b" not in raw
    assert raw.isascii()


def test_modules_with_endless_command_lines(cli: Cli, held: Held) -> None:
    """64 modules whose strings overlap, none with an end: what is read, and how often, has to stay bounded."""
    modules = b"".join(struct.pack("<QQQQ", FREE + 0x10000, 0x1000, FREE + 0x10000 + 0x3001 * index, 0) for index in range(64))

    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(FREE, modules)
        target.write_memory(FREE + 0x10000, b"B" * 0xF0000)
        target.write_memory(at + MODLIST, struct.pack("<Q", FREE))
        target.write_memory(at + MODULES, struct.pack("<I", 0xFFFFFFFF))

    held.patch(change)
    looked_at(cli, held, 1)


def test_modules_with_endless_command_lines_all_over_memory(cli: Cli, held: Held) -> None:
    """The same without overlap, over the guest's whole 64 MiB: nothing is read twice, but all of it is different."""
    modules = b"".join(struct.pack("<QQQQ", 0x1100000 + 0x80000 * index, 64, 0x1100000 + 0x80000 * index, 7) for index in range(64))

    def change(target: RemoteTarget, at: int) -> None:
        target.write_memory(FREE, modules)
        for index in range(64):
            target.write_memory(0x1100000 + 0x80000 * index, b"C" * 0x11000)
        target.write_memory(at + MODLIST, struct.pack("<Q", FREE))
        target.write_memory(at + MODULES, struct.pack("<I", 64))

    held.patch(change)
    looked_at(cli, held, 1)


def test_an_acpi_table_that_is_huge(cli: Cli, held: Held) -> None:
    def change(target: RemoteTarget, at: int) -> None:
        rsdp = bytearray(b"RSD PTR \0\x1b[31m\x07\x02" + struct.pack("<IIQ4x", FREE + 0x100, 0xFFFFFFFF, FREE + 0x200))
        rsdp[8] = -sum(rsdp[:20]) & 0xFF
        target.write_memory(FREE, bytes(rsdp))
        target.write_memory(FREE + 0x100, b"RSDT" + struct.pack("<I", 0xFFFFFFFF) + bytes(100))
        target.write_memory(FREE + 0x200, b"\x1b[2J" + struct.pack("<I", 0x10000000) + bytes(100))
        target.write_memory(at + RSDP, struct.pack("<Q", FREE))

    held.patch(change)
    looked_at(cli, held, 1)


def test_every_register_is_nonsense(cli: Cli, held: Held) -> None:
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp")
    with held.machine.debugger() as target:
        before = target.read_registers()
        for name in names:
            target.write_register(name, 0xFFFFFFFFFFFFFFFF)
    try:
        looked_at(cli, held, 1)
        looked_at_by_draft_a = cli("check", held.machine.socket, "--here", "--spec", "draft-a")
        assert looked_at_by_draft_a.code == 1
        safe(looked_at_by_draft_a)
    finally:
        with held.machine.debugger() as target:
            for name in names:
                target.write_register(name, before[name])


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(held: Held) -> str:
    """A sound snapshot's text."""
    with scratch() as folder:
        path = folder / "a.pvhsnap"
        subprocess.run([sys.executable, "-m", "pvhdbg", "snapshot", "save", HELLO, "-o", str(path)],
                       check=True, capture_output=True, cwd=Path(__file__).parents[2])  # fmt: skip
        return path.read_text()


def _set(document: dict[str, Any], path: str, value: Any) -> str:
    *way, last = path.split(".")
    place: Any = document
    for part in way:
        place = place[int(part)] if part.isdigit() else place[part]
    place[int(last) if last.isdigit() else last] = value
    return json.dumps(document)


def test_a_cut_snapshot(cli: Cli, saved: str) -> None:
    for kept in (40, 1000, len(saved) // 2, len(saved) - 3):
        cli("check", cli.file("a.pvhsnap", saved[:kept])).complaint(2, "snapshot")


def test_a_snapshot_that_is_something_else(cli: Cli) -> None:
    for data in (
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"1",
        b'{"schema": "pvhdbg/snapshot/2"}',
        b"[" * 100_000,
        Path(HELLO).read_bytes(),
    ):
        cli("check", cli.file("a.pvhsnap", data)).complaint(2)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("registers", []),
        ("registers.rip", "12"),
        ("registers.rip", "0x-1"),
        ("registers.rip", "0x1_0"),
        ("registers.rip", 17),
        ("segments.cs", 1),
        ("segments", None),
        ("gdt", ["0x1"]),
        ("a20", "yes"),
        ("vmm", "QEMU"),
        ("kernel.loads", [["0x1"]]),
        ("kernel.loads", 5),
        ("memory.0.zlib", "AAAA"),
        ("memory.0.zlib", "!"),
        ("memory.0.size", 1 << 40),
        ("memory.0.size", -1),
        ("memory.0.size", 1e400),
        ("memory.0.address", None),
        ("memory.0.address", "0xffffffffffffffff"),
        ("memory", {}),
        ("holes", [["0x0", "0x10"]]),
        ("backing", [["0x0"]]),
        ("backing", 3),
        ("entry", 3),
        ("entry.address", "somewhere"),
        ("sources", [1]),
        ("captured", 7),
        ("entry.found_by", "\x1b[2J"),
    ],
)
def test_a_damaged_snapshot(cli: Cli, saved: str, path: str, value: object) -> None:
    ran = bounded(cli, "check", cli.file("a.pvhsnap", _set(json.loads(saved), path, value)))
    if ran.code == 2:
        ran.complaint(2, "snapshot")
    safe(ran)


@pytest.mark.parametrize(
    "path",
    ["kernel.path", "kernel.build_id", "kernel.source", "entry.symbol", "vmm.name", "vmm.version",
     "vmm.accelerator", "registers_missing", "segments_missing", "segments.tr.missing", "captured", "sources.memory"],
)  # fmt: skip
def test_a_snapshot_that_steers_terminals(cli: Cli, saved: str, path: str) -> None:
    document = json.loads(saved)
    if path == "registers_missing":
        del document["registers"]["cr0"]
    if path == "segments_missing":
        document["segments"] = {}
    if path == "segments.tr.missing":
        document["segments"]["tr"] |= {"base": None, "limit": None, "flags": None}
    file = cli.file("a.pvhsnap", _set(document, path, ESCAPES.decode("latin-1")))
    for command in ("check", "regs", "info"):
        ran = cli(command, file)
        assert ran.code in (0, 1)
        safe(ran)
        assert "\x1b" not in cli(command, file, "--format", "json").out


def test_holes_of_a_snapshot_that_steer_terminals(cli: Cli, saved: str) -> None:
    document = json.loads(saved)
    document["memory"] = []
    document["backing"] = None
    document["holes"] = [["0x0", "0xffffffffffffffff", ESCAPES.decode("latin-1")]]
    safe(cli("check", cli.file("a.pvhsnap", json.dumps(document))).ok(1))
    document = json.loads(saved)
    start = int(document["registers"]["rbx"], 16)
    document["backing"] = None
    document["holes"] = [["0x0", "0xffffffffffffffff", ESCAPES.decode("latin-1")]]
    document["memory"] = [piece for piece in document["memory"] if int(piece["address"], 16) in range(start - 4096, start + 1)]
    for command in ("check", "info"):
        safe(cli(command, cli.file("a.pvhsnap", json.dumps(document))))


def test_a_zip_bomb(cli: Cli, saved: str) -> None:
    import base64
    import zlib

    document = json.loads(saved)
    bomb = base64.b64encode(zlib.compress(bytes(1 << 27))).decode()
    document["memory"] = [{"address": "0x0", "size": 1 << 27, "zlib": bomb}]
    bounded(cli, "check", cli.file("a.pvhsnap", json.dumps(document))).complaint(2, "64 MiB")
    document["memory"] = [{"address": "0x0", "size": 56, "zlib": bomb}]
    bounded(cli, "check", cli.file("b.pvhsnap", json.dumps(document))).complaint(2, "56 bytes")


def test_a_snapshot_with_many_pieces(cli: Cli, saved: str) -> None:
    import base64
    import zlib

    document = json.loads(saved)
    one = base64.b64encode(zlib.compress(b"A")).decode()
    document["memory"] += [{"address": f"{0x2000000 + 2 * index:#x}", "size": 1, "zlib": one} for index in range(50_000)]
    document["holes"] = [[f"{0x4000000 + 16 * index:#x}", "0x8", "x"] for index in range(10_000)]
    document["backing"] = [[f"{1 << 40 | 16 * index:#x}", "0x8", "ram", "x"] for index in range(10_000)] + document["backing"]
    ran = cli("check", cli.file("a.pvhsnap", json.dumps(document))).ok()
    assert ran.seconds < QUICK
