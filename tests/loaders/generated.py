"""ELF files of every shape that QEMU's loader decides by, always the same ones for a seed.

What may be entered is code that reports it: it writes its number, eax and the word at [ebx] to port 0xe9 and ends QEMU.
"""

import random
import struct
from dataclasses import dataclass
from pathlib import Path

from pvhdbg.kernel.image import open_kernel
from pvhdbg.loaders.catalogue import simulate
from pvhdbg.loaders.loading import BootParameters, Loading
from pvhdbg.spec.elf import EM_386, EM_X86_64, PT_LOAD, PT_NOTE
from tests.support.elf_writer import NoteSpec, Piece, Program

MIB = 1 << 20
MEMORY = 64 * MIB
SPOTS = 2  # places to enter in each segment with code
SPOT_SIZE = 64
_OUT = b"\xe6\xe9"  # out %al, $0xe9
_WORD = _OUT + (b"\xc1\xe8\x08" + _OUT) * 3  # all four bytes of eax


def answers(path: Path, boot: BootParameters) -> dict[str, Loading]:
    """What each simulator says of a file, by the loader's name."""
    with open_kernel(str(path)) as image:
        return {loading.loader: loading for loading in simulate(image.file(), boot)}


def report(number: int) -> bytes:
    """Code that tells where it is and ends QEMU."""
    code = b"\x89\xc7" + bytes([0xB0, number]) + _OUT + b"\x89\xf8" + _WORD + b"\x8b\x03" + _WORD + b"\xb0\x00\xe6\xf4\xeb\xfe"
    return code.ljust(SPOT_SIZE, b"\x90")


def mutated(dice: random.Random, data: bytes, first: int = 0) -> bytes:
    """The file with some bytes of its headers changed, none before offset `first`."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        changed[dice.randrange(first, min(len(data), dice.choice((64, 256, 2000))))] = dice.choice((0, 1, 4, 8, 0x7F, 0x80, 255))
    return bytes(changed)


@dataclass(frozen=True)
class Case:
    """A file and the run that it is started with.

    Physical addresses of its spots by number: where the segments put them, and where a multiboot header with addresses does.
    """

    number: int
    data: bytes
    boot: BootParameters
    spots: dict[int, int]
    header_spots: dict[int, int]


def cases(count: int, seed: int = 2018) -> list[Case]:
    return [_case(number, random.Random(seed * 100_003 + number)) for number in range(count)]


def _case(number: int, dice: random.Random) -> Case:
    bits = dice.choice((64, 64, 32))
    machine = EM_X86_64 if dice.random() < (0.85 if bits == 64 else 0.2) else EM_386
    spots: dict[int, int] = {}
    loads = _loads(dice, bits, spots)
    targets = list(spots.values()) or [MIB]
    pieces = loads + _note_pieces(dice, bits, targets)
    if dice.random() < 0.5:
        dice.shuffle(pieces)
    entry = dice.choice((*targets, *targets, 0, 0x1000, MEMORY + 0x1000))
    if dice.random() < 0.2:  # virtual addresses, and e_entry among them
        base = dice.choice((0xC0000000, 0x1000)) if bits == 32 else dice.choice((0xFFFFFFFF80000000, 0x1000))
        pieces = [_moved(piece, base, bits) for piece in pieces]
        entry = entry + base & (1 << bits) - 1 if dice.random() < 0.8 else entry
    flags = dice.choice((0,) * 40 + (1, 4, 0x10000, 0x10004, 0x20000))
    program = Program(tuple(pieces), bits, machine, entry, flags, step=dice.choice((4, 4, 8, 16)), tail=_tail(dice))
    header_spots: dict[int, int] = {}
    data = _with_front(dice, program, header_spots).encode()
    if len(data) < 4096 and dice.random() < 0.3:
        data += bytes(dice.choice((1, 511, 4096 - len(data))))
    return Case(number, data, _boot(dice), spots, header_spots)


def _is_code(piece: Piece) -> bool:
    return bool(piece.content[:2] == b"\x89\xc7")


def _loads(dice: random.Random, bits: int, spots: dict[int, int]) -> list[Piece]:
    pieces: list[Piece] = []
    at = dice.choice((MIB, MIB, MIB, 2 * MIB, 16 * MIB, 0x10000))
    for index in range(dice.choice((0,) + (1,) * 8 + (2, 2, 2, 3, 3, 4))):
        kind = dice.choice(("code",) * (40 if not index else 6) + ("bss", "empty", "high", "short", "huge"))
        flags = dice.choice((7, 7, 7, 6, 5, 4, 0))
        if kind == "code":
            content = b"".join(report(1 + SPOTS * index + spot) for spot in range(SPOTS))
            if at >= MIB:
                spots.update({1 + SPOTS * index + spot: at + spot * SPOT_SIZE for spot in range(SPOTS)})
            memsz = len(content) + dice.choice((0, 0, 64, 0x1000, 0x20000))
            pieces.append(Piece(PT_LOAD, content, at, memsz=memsz, flags=flags))
        elif kind == "bss":
            pieces.append(Piece(PT_LOAD, b"", at, memsz=0x2000, flags=flags))
        elif kind == "empty":
            pieces.append(Piece(PT_LOAD, b"", at, flags=flags))
        elif kind == "high":
            high = dice.choice((0xE0000000, 0x80000000, 0x100000000, 0x1000000000)) & (1 << bits) - 1
            pieces.append(Piece(PT_LOAD, bytes(64), high or 0xE0000000, flags=flags))
        elif kind == "short" and dice.random() < 0.15:
            pieces.append(Piece(PT_LOAD, bytes(64), at, memsz=32, flags=flags))
        elif kind == "huge" and dice.random() < 0.3:
            memsz = 0x80000000 if bits == 32 else dice.choice((0x80000000, 0x8000000000000000))
            pieces.append(Piece(PT_LOAD, bytes(16), at, memsz=memsz, flags=flags))
        at += dice.choice((0, 64, 0x80, 0x1000, 0x1000, 0x10000, 0x10000, MIB, MIB, MIB))
    return pieces


def _moved(piece: Piece, base: int, bits: int) -> Piece:
    return Piece(
        piece.type,
        piece.content,
        piece.paddr,
        piece.paddr + base & (1 << bits) - 1,
        piece.filesz,
        piece.memsz,
        piece.flags,
        piece.align,
    )


def _note_pieces(dice: random.Random, bits: int, targets: list[int]) -> list[Piece]:
    pieces = []
    for _ in range(dice.choice((0,) + (1,) * 9 + (2, 2, 3))):
        align = dice.choice((4,) * 8 + (8,) * 4 + (1, 1, 2, 16, 3)) if dice.random() < 0.95 else 0
        if dice.random() < 0.01:
            align = (1 << bits) - dice.choice((1, 4, 1 << bits - 1))
        padding = dice.choice(("4", "4", "lengths", "offsets", "none"))
        notes = [_note(dice, targets) for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 4)))]
        content = b"".join(_padded(note, padding, align) for note in notes)
        if dice.random() < 0.1:
            content = content[: len(content) - dice.choice((1, 4, 8))]
        if dice.random() < 0.1:
            content += dice.choice((bytes(8), bytes(40), b"\xff" * 12, struct.pack("<III", 4, 0xFFFFFFF0, 5)))
        pieces.append(Piece(PT_NOTE, content, paddr=dice.choice((0, targets[0])), flags=4, align=align))
    return pieces


def _note(dice: random.Random, targets: list[int]) -> NoteSpec:
    kind = dice.choice((18,) * 10 + (19, 3, 5, 1, 0x100, 0))
    owner = dice.choice((b"Xen\0",) * 5 + (b"GNU\0", b"Xen", b"", b"Linux\0", b"XenXenXen\0"))
    value = dice.choice((*targets, *targets, *targets, *targets, 0, MEMORY + 0x3000, 0x500000))
    width = dice.choice((4,) * 8 + (8,) * 6 + (0, 2, 12, 16))
    if width >= 8 and dice.random() < 0.2:
        value |= 1 << dice.randrange(32, 64)
    return NoteSpec(kind, owner, (value & (1 << 8 * width) - 1).to_bytes(width, "little"))


def _padded(note: NoteSpec, padding: str, align: int) -> bytes:
    if padding == "none":
        return bytes(note.padded_by_lengths(1))
    if padding == "lengths" and 0 < align <= 64:
        return bytes(note.padded_by_lengths(align))
    return bytes(note.padded_by_offsets() if padding == "offsets" else note.encode())


def _tail(dice: random.Random) -> bytes:
    return dice.choice(
        (
            b"",
            b"",
            bytes(64),
            b"\xff" * 64,
            NoteSpec(desc=(0x300000).to_bytes(8, "little")).encode() + bytes(16),
            dice.randbytes(200),
        )
    )


def _with_front(dice: random.Random, program: Program, header_spots: dict[int, int]) -> Program:
    """With a multiboot header, a Linux setup header, or (mostly) nothing in front of the contents."""
    kind = dice.choice(("",) * 18 + ("plain", "plain", "plain", "addresses", "addresses", "spoiled", "late", "linux"))
    front = b""
    if kind == "plain":
        front = _header(dice.choice((0, 0, 0, 1, 2, 4)))
    elif kind == "addresses":
        front = _address_header(dice, program, header_spots)
    elif kind == "spoiled":
        front = dice.choice((_header(0)[:8] + bytes(4), b"\0" + _header(0) + bytes(3)))
    elif kind == "late":
        front = bytes(dice.choice((8192 - 52, 8192 - 48, 8192)) - program.front_offset) + _header(0)
    elif kind == "linux" and program.front_offset < 0x1F0:
        version, loadflags = dice.choice(((0x20F, 1), (0x20F, 0), (0x201, 1), (0x150, 1)))
        front = bytes(0x1F1 - program.front_offset) + bytes([dice.choice((0, 1, 60))])
        front = front.ljust(0x202 - program.front_offset, b"\0") + b"HdrS" + struct.pack("<H", version)
        front = front.ljust(0x211 - program.front_offset, b"\0") + bytes([loadflags])
        front = front.ljust(0x22C - program.front_offset, b"\0") + struct.pack("<I", 0x7FFFFFFF)
        front = front.ljust(0x280 - program.front_offset, b"\0")
    return Program(program.pieces, program.bits, program.machine, program.entry, program.flags, front, program.tail, program.step)


def _header(flags: int, *words: int) -> bytes:
    return struct.pack(f"<III{len(words)}I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, *words)


def _address_header(dice: random.Random, program: Program, header_spots: dict[int, int]) -> bytes:
    """A multiboot header with addresses: right ones, so that spots are entered where the header puts them, or spoiled ones."""
    size = len(_header(0x10000, *[0] * 5))
    shifted = Program(program.pieces, program.bits, program.machine, program.entry, 0, bytes(size), program.tail, program.step)
    load, at = dice.choice((MIB, 3 * MIB)), program.front_offset
    end = load + len(shifted.encode())
    found = [(piece.content[3], offset) for piece, offset in zip(shifted.pieces, shifted.offsets, strict=True) if _is_code(piece)]
    spot, offset = found[0] if found else (0, at)
    words = [load + at, load, dice.choice((0, end)), dice.choice((0, end + 0x3000)), load + offset]
    if dice.random() < 0.7:
        header_spots[spot] = load + offset
    else:
        index = dice.randrange(4)
        far = 0xFFFFF000 if index != 3 else 1  # QEMU clears memory of its own up to bss_end_addr
        words[index] = dice.choice((words[index] + 0x100000, words[index] - 4 & 0xFFFFFFFF, 1, far))
    return _header(0x10000 | dice.choice((0, 3)), *words)


def _boot(dice: random.Random) -> BootParameters:
    return BootParameters(
        command_line=dice.choice((b"", b"", b"console=ttyS0", b"x" * 3000)),
        initrd_size=dice.choice((1, 5000, 5000, 3 * MIB, 70 * MIB)) if dice.random() < 0.25 else 0,
        memory=MEMORY,
        machine=dice.choice(("microvm", "microvm", "pc")),
    )
