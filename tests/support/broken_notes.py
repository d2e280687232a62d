"""Kernels whose PVH note has a defect, by the defect's name; each says what becomes of it, in pvhdbg and in QEMU.

They are written by elf_writer, not assembled: GNU tools make none of them. The code is one jump to itself, at 1 MiB. To have
them as files: `PYTHONPATH=. python3 tests/support/broken_notes.py FOLDER`.
"""

import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.elf_writer import ENTRY, ElfSpec, NoteSpec, RawNotes

REFUSED = "without PVH ELF Note"  # the words with which QEMU ends
KILLED = "SIGFPE"
CHANCE = None  # it reads memory of its own, behind the file
NOT_64_BIT = "Cannot load x86-64 image"
ELSEWHERE = 0x100040  # inside the PT_LOAD, but not the code
VIRTUAL = 0xC0100000  # where a 32-bit kernel is linked, 3 GiB up
I386 = 3

# Behind the notes: an address of 0 for a descriptor that is too short, and lengths that end QEMU's search, which goes on
# behind the segment: else it would leave the file, and chance would decide.
TAIL = bytes(8) + b"\x11" * 64

BUILD_ID = NoteSpec(3, b"GNU\0", b"\xab" * 20)
PROPERTY = NoteSpec(5, b"GNU\0", bytes.fromhex("020001c0 04000000 00000000 00000000"))  # .note.gnu.property: x86 ISA needed


@dataclass(frozen=True)
class BrokenNote:
    """A defective kernel.

    `rules` are those that fail. `said` are words of pvhdbg's complaint, "" for none; `entry` is where it finds the PVH entry.
    `qemu` is the address at which QEMU enters it, the words with which QEMU ends, or CHANCE.
    """

    defect: str
    rules: str
    said: str
    qemu: int | str | None
    entry: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> bytes:
        """The ELF file."""
        data: bytes = ElfSpec(**self.changes).encode()
        return data + TAIL


def _one(note: NoteSpec | RawNotes) -> dict[str, Any]:
    return {"notes": ((note,),)}


def _raw(namesz: int, descsz: int, type: int = 18) -> RawNotes:
    return RawNotes(struct.pack("<III4sI", namesz, descsz, type, b"Xen\0", ENTRY))


def _at(address: int, **changes: Any) -> NoteSpec:
    return NoteSpec(desc=address.to_bytes(4, "little"), **changes)


BROKEN_NOTES: Mapping[str, BrokenNote] = MappingProxyType(
    {
        # --- not where loaders look
        "no-segment": BrokenNote("there is no PT_NOTE", "ELF-NOTE-18", "no PT_NOTE segment", REFUSED, changes={"notes": ()}),
        "section-only": BrokenNote(
            "the note is in a section that no PT_NOTE covers",
            "ELF-NOTE-18 ELF-NOTE-PTNOTE",
            "no PT_NOTE segment covers",
            REFUSED,
            changes={"notes": (), "section_notes": (NoteSpec(),)},
        ),
        "multiboot-64": BrokenNote(
            "a multiboot header hides the note, and QEMU takes no ELF64 by multiboot",
            "ELF-MULTIBOOT",
            NOT_64_BIT,
            NOT_64_BIT,
            ENTRY,
            {"multiboot": True},
        ),
        "multiboot-32": BrokenNote(
            "a multiboot header hides the note: QEMU enters at e_entry",
            "ELF-MULTIBOOT",
            "",
            ENTRY,
            ELSEWHERE,
            {"multiboot": True, "bits": 32, "machine": I386, **_one(_at(ELSEWHERE))},
        ),
        # --- not the note that is wanted
        "type-other": BrokenNote(
            "only XEN_VERSION is there", "ELF-NOTE-18", "none of its 1 notes", REFUSED, changes=_one(NoteSpec(5, desc=b"xen-3.0\0"))
        ),
        "type-pv-entry": BrokenNote(
            "XEN_ELFNOTE_ENTRY is the PV entry", "ELF-NOTE-18", "none of its 1 notes", REFUSED, changes=_one(NoteSpec(1))
        ),
        "type-big-endian": BrokenNote(
            "its words are in the other byte order",
            "ELF-NOTE-18",
            "extend past its segment",
            REFUSED,
            changes=_one(RawNotes(struct.pack(">III4sI", 4, 4, 18, b"Xen\0", ENTRY))),
        ),
        "owner-other": BrokenNote(
            "the note belongs to GNU", "ELF-NOTE-18 ELF-NOTE-OWNER", "not to Xen", ENTRY, changes=_one(NoteSpec(owner=b"GNU\0"))
        ),
        "owner-without-nul": BrokenNote(
            "the owner has no NUL: namesz 3",
            "ELF-NOTE-18 ELF-NOTE-OWNER",
            "not to Xen",
            ENTRY,
            changes=_one(NoteSpec(owner=b"Xen")),
        ),
        "owner-upper-case": BrokenNote(
            "the owner is XEN", "ELF-NOTE-18 ELF-NOTE-OWNER", "not to Xen", ENTRY, changes=_one(NoteSpec(owner=b"XEN\0"))
        ),
        "owner-empty": BrokenNote(
            "there is no owner: namesz 0", "ELF-NOTE-18 ELF-NOTE-OWNER", "not to Xen", ENTRY, changes=_one(NoteSpec(owner=b""))
        ),
        # --- no address in it
        "desc-empty": BrokenNote(
            "the descriptor is empty", "ELF-NOTE-18 ELF-NOTE-DESC", "holds nothing", REFUSED, changes=_one(NoteSpec(desc=b""))
        ),
        "desc-3-bytes": BrokenNote(
            "the descriptor has 3 bytes", "ELF-NOTE-18 ELF-NOTE-DESC", "in 3 bytes", ENTRY, changes=_one(NoteSpec(desc=b"\0\0\x10"))
        ),
        "desc-2-bytes": BrokenNote(
            "the descriptor has 2 bytes: it was cut",
            "ELF-NOTE-18 ELF-NOTE-DESC",
            "in 2 bytes",
            REFUSED,
            changes=_one(NoteSpec(desc=b"\0\0")),
        ),
        "desc-zero": BrokenNote(
            "the entry is 0, which QEMU takes for no note", "ELF-NOTE-18 ELF-ENTRY-RANGE", REFUSED, REFUSED, 0, _one(_at(0))
        ),
        "desc-big-endian": BrokenNote(
            "the entry is in the other byte order",
            "ELF-ENTRY-RANGE",
            "",
            0x1000,
            0x1000,
            _one(NoteSpec(desc=ENTRY.to_bytes(4, "big"))),
        ),
        "desc-virtual": BrokenNote(
            "the entry is the link-time address", "ELF-ENTRY-RANGE", "", VIRTUAL, VIRTUAL, _one(_at(VIRTUAL))
        ),
        "desc-high-half": BrokenNote(
            "the entry is a 64-bit link-time address",
            "ELF-NOTE-DESC ELF-ENTRY-RANGE",
            "",
            0x80100000,
            0x80100000,
            _one(NoteSpec(desc=(0xFFFFFFFF80100000).to_bytes(8, "little"))),
        ),
        "desc-outside": BrokenNote(
            "the entry is outside of all that is loaded", "ELF-ENTRY-RANGE", "", 0x800000, 0x800000, _one(_at(0x800000))
        ),
        # --- sizes and padding
        "namesz-too-large": BrokenNote(
            "n_namesz leaves the segment", "ELF-NOTE-18", "is undefined", CHANCE, changes=_one(_raw(0x1000, 4))
        ),
        "descsz-too-large": BrokenNote(
            "n_descsz leaves the segment", "ELF-NOTE-18", "extend past its segment", ENTRY, changes=_one(_raw(4, 0x1000))
        ),
        "header-cut": BrokenNote(
            "the segment ends within the note's header",
            "ELF-NOTE-18",
            "none of its 0 notes",
            REFUSED,
            changes=_one(RawNotes(struct.pack("<II", 4, 4))),
        ),
        "p-align-0": BrokenNote(
            "PT_NOTE has p_align 0, by which QEMU divides", "ELF-NOTE-PALIGN", KILLED, KILLED, ENTRY, {"align": 0}
        ),
        "p-align-8": BrokenNote(
            "PT_NOTE has p_align 8, and QEMU looks for the entry 4 bytes too far",
            "ELF-NOTE-PALIGN",
            REFUSED,
            REFUSED,
            ENTRY,
            {"align": 8, **_one(RawNotes(NoteSpec().padded_by_offsets()))},
        ),
        "property-first": BrokenNote(
            "a .note.gnu.property made p_align 8, and QEMU passes over the note",
            "ELF-NOTE-PALIGN",
            REFUSED,
            REFUSED,
            ENTRY,
            {"align": 8, **_one(RawNotes(PROPERTY.padded_by_offsets() + NoteSpec().padded_by_offsets()))},
        ),
        # --- more than one
        "two-in-a-segment": BrokenNote(
            "two notes name two entries: QEMU takes the first, Xen the last",
            "ELF-NOTE-UNIQUE",
            "",
            ENTRY,
            ENTRY,
            {"notes": ((_at(ENTRY), _at(ELSEWHERE)),)},
        ),
        "two-segments": BrokenNote(
            "two segments name two entries: the last counts",
            "ELF-NOTE-UNIQUE",
            "",
            ENTRY,
            ENTRY,
            {"notes": ((_at(ELSEWHERE),), (_at(ENTRY),))},
        ),
        "not-last-segment": BrokenNote(
            "another PT_NOTE follows: old linux-loaders forget the first",
            "ELF-NOTE-LASTSEG",
            "",
            ENTRY,
            ENTRY,
            {"notes": ((NoteSpec(),), (BUILD_ID,))},
        ),
        "stranger-first": BrokenNote(
            "a stranger's note of type 18 comes first: QEMU asks for no owner",
            "ELF-NOTE-UNIQUE",
            "",
            ELSEWHERE,
            ENTRY,
            {"notes": ((_at(ELSEWHERE, owner=b"GNU\0"), _at(ENTRY)),)},
        ),
    }
)


def write_all(folder: Path) -> list[Path]:
    """All of them as NAME.elf in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.elf" for name in BROKEN_NOTES]
    for path in paths:
        path.write_bytes(BROKEN_NOTES[path.stem].build())
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: PYTHONPATH=. python3 tests/support/broken_notes.py FOLDER")
    for written in write_all(Path(sys.argv[1])):
        print(f"{written}  {BROKEN_NOTES[written.stem].defect}")
