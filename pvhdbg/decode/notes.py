"""ELF notes as bytes: owner, type and descriptor, and the three ways in which tools pad them.

Most producers and readers (Xen's libelf, rust-vmm, GNU as) pad owner and descriptor to 4 bytes for every p_align. For
p_align 8 there are two more ways: GNU tools align the descriptor's *offset* to 8; QEMU pads the owner's *length* to 8 (so
that it only finds notes that were written for it). The three are tried in this order. The first whose last note ends
exactly where the segment ends is used; if none does, the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pvhdbg.errors import BadInput
from pvhdbg.layout import Buffer as Buffer
from pvhdbg.record import NamedTuple, dataclass
from pvhdbg.spec.elf import NoteHeader

COUNT_BOUND = 1 << 12  # notes in one file; kernels have about 20
SPANS_BOUND = 32  # PT_NOTE segments; kernels have one or two
BYTES_BOUND = 16 << 20  # bytes of owners and descriptors in one file, since segments may overlap

_DAMAGED = "the file is damaged: make or fetch it again"


_HEAD = NoteHeader.sizeof()


@dataclass(frozen=True)
class Note:
    """One ELF note. `offset` is its file offset, `segment` the index of the PT_NOTE (or section) that holds it.

    `padding` counts the bytes up to the next note that are neither owner nor descriptor. `behind` are the bytes of the file that
    follow the descriptor, up to the 8 that QEMU reads of it.
    """

    owner: bytes
    type: int
    desc: bytes
    offset: int
    segment: int
    align: int
    padding: int = 0
    behind: bytes = b""

    @property
    def is_xen(self) -> bool:
        return self.owner == b"Xen\0"


class Span(NamedTuple):
    """A run of notes: bytes `start` to `end` of the file, and the alignment and index of its segment or section."""

    start: int
    end: int
    align: int
    holder: int


class NotePlace(NamedTuple):
    """The place of one note of a run: file offsets of its header, its descriptor, and the note after it."""

    at: int
    head: NoteHeader
    desc: int
    after: int


# (namesz, descsz) -> offsets of the descriptor and of the next note, from the note's beginning
Padding = Callable[[int, int], tuple[int, int]]


def round_up(value: int, align: int) -> int:
    return -(-value // align) * align


def by_lengths(align: int) -> Padding:
    """Owner and descriptor are each padded to a multiple of `align` bytes: 4 for Xen, p_align for QEMU."""

    def pad(namesz: int, descsz: int) -> tuple[int, int]:
        desc = _HEAD + round_up(namesz, align)
        return desc, desc + round_up(descsz, align)

    return pad


def by_offsets(namesz: int, descsz: int) -> tuple[int, int]:
    """Descriptor and next note begin at multiples of 8: how GNU tools write and read segments of p_align 8."""
    desc = round_up(_HEAD + namesz, 8)
    return desc, round_up(desc + descsz, 8)


def read(data: Buffer, spans: Iterable[Span]) -> tuple[tuple[Note, ...], str]:
    """The notes of all spans (which lie inside `data`), and a description of the damage that ended a run, or "".

    A note that extends past its run ends that run. Raises BadInput for more notes than any kernel has.
    """
    notes: list[Note] = []
    damage, size = "", 0
    for number, span in enumerate(spans):
        if number >= SPANS_BOUND:
            raise BadInput(f"there are more than {SPANS_BOUND} PT_NOTE segments: one at file offset {span.start:#x}", _DAMAGED)
        places, broken = _places(data, span)
        damage = damage or broken
        for place in places:
            size += place.head.n_namesz + place.head.n_descsz
            if len(notes) >= COUNT_BOUND or size > BYTES_BOUND:
                raise BadInput(
                    f"the note at file offset {place.at:#x} exceeds the bound of {COUNT_BOUND} notes or {BYTES_BOUND >> 20} MiB of notes",
                    _DAMAGED,
                )
            owner = bytes(data[place.at + _HEAD : place.at + _HEAD + place.head.n_namesz])
            desc = bytes(data[place.desc : place.desc + place.head.n_descsz])
            padding = min(place.after, span.end) - place.at - _HEAD - len(owner) - len(desc)
            end = place.desc + len(desc)
            behind = bytes(data[end : max(end, place.desc + 8)])
            notes.append(Note(owner, place.head.n_type, desc, place.at, span.holder, span.align, padding, behind))
    return tuple(notes), damage


def _places(data: Buffer, span: Span) -> tuple[list[NotePlace], str]:
    readings = [_reading(data, span, by_lengths(4))]
    if span.align == 8 and not readings[0][1]:
        readings += [_reading(data, span, padding) for padding in (by_offsets, by_lengths(8))]
    places, _, broken = next((reading for reading in readings if reading[1]), readings[0])
    return places, broken


def _reading(data: Buffer, span: Span, padding: Padding) -> tuple[list[NotePlace], bool, str]:
    """The notes of a run by one padding, whether they end exactly at its end, and the damage that ended it, or ""."""
    places: list[NotePlace] = []
    end = span.start
    for place in walk(data, span, padding):
        end = place.desc + place.head.n_descsz
        if end > span.end:
            head = place.head
            what = f"n_namesz {head.n_namesz:#x} and n_descsz {head.n_descsz:#x} of the note at file offset {place.at:#x} extend past its segment"
            return places, False, what
        places.append(place)
        if len(places) > COUNT_BOUND:
            break
    after = places[-1].after if places else end
    return places, span.end in (end, after), ""


def walk(data: Buffer, span: Span, padding: Padding) -> Iterator[NotePlace]:
    """Every note whose header lies in the run. The last may extend past it: check its lengths before reading its bytes."""
    at = span.start
    while at + _HEAD <= span.end:
        head = NoteHeader.decode(data, at)
        desc, after = padding(head.n_namesz, head.n_descsz)
        yield NotePlace(at, head, at + desc, at + after)
        at += after
