"""Remove command lines from a snapshot before it is passed on, without changing what the rules judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from pvhdbg.decode.boot_state import BootState, Text, Unread
from pvhdbg.model import Memory, MemoryPiece, Snapshot

_SHORTEST = 4  # bytes: a shorter string is in every page, so memory is not searched for copies of it


def without_command_lines(boot: BootState) -> Snapshot:
    """The snapshot with a `*` for each byte of the command lines, including the modules' ones: in guest memory, in every copy
    in the memory that was read, and in the VMM's own arguments. `sources` records it.

    The value of the VMM's `-append` is removed too: the machine may have been entered by another protocol than PVH.
    """
    texts = _texts(boot)
    snapshot = boot.snapshot
    appended = [value for option, value in pairwise(snapshot.vmm.command or ()) if _takes_command_line(option)]
    strings = {*(text.data for text in texts), *(value.encode("utf-8", "surrogateescape") for value in appended)}
    pieces = []
    for piece in snapshot.memory.pieces:
        data = piece.data
        for text in texts:
            begin, end = max(text.address, piece.address), min(text.address + len(text.data), piece.end)
            if begin < end:
                at = begin - piece.address
                data = data[:at] + b"*" * (end - begin) + data[at + end - begin :]
        for string in strings:
            if len(string) >= _SHORTEST:
                data = data.replace(string, b"*" * len(string))
        pieces.append(MemoryPiece(piece.address, data))
    vmm = snapshot.vmm
    if vmm.command is not None:
        vmm = replace(vmm, command=tuple(_arguments(vmm.command, [str(text) for text in texts])))
    sources = {**snapshot.sources, "command line": "redacted"}
    return replace(snapshot, memory=Memory(pieces, snapshot.memory.holes), vmm=vmm, sources=sources)


def _texts(boot: BootState) -> list[Text]:
    found: list[Text | Unread | None] = []
    if not isinstance(boot.start_info_part, Unread):
        found.append(boot.start_info.command_line)
        if not isinstance(boot.start_info.modules, Unread):
            found += [module.command_line for module in boot.start_info.modules]
    if not isinstance(boot.draft_a_part, Unread):
        raw = boot.draft_a.raw
        found.append(Text(boot.draft_a.address + raw.offset_of("cmd_line"), raw.cmd_line.split(b"\0")[0], terminated=True))
    return [text for text in found if isinstance(text, Text) and text.data]


def _takes_command_line(option: str) -> bool:
    return option in ("-append", "--append")


def _arguments(command: Iterable[str], strings: list[str]) -> Iterable[str]:
    before = ""
    for word in command:
        secret = _takes_command_line(before)
        before = word
        for string in strings:
            if len(string) >= _SHORTEST:
                word = word.replace(string, "*" * len(string))
        yield "*" * len(word) if secret else word
