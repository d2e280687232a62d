"""A saved boot: one line of JSON that describes the boot, followed by the compressed output of the recorder.

The recorder's own file is sparse and as long as its capacity. The parts in use are saved, each with its offset; the gaps read as
zeros.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pvhdbg.layout import Buffer
from pvhdbg.tracing.flow import MOST_CHUNKS, Flow, Saved, packed, read, unpacked
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.recording import Recording

SCHEMA = "pvhdbg/boot/1"
BEGINNING = b'{"schema": "pvhdbg/boot/'  # of a saved boot of any version
_LINE = 1 << 20  # bytes of the line that are read
_LEVEL = 6
_PIECE = 1 << 20
_MOST_SIZE = 1 << 32  # bytes of a recording's file; one of 256 CPUs has 2.3 GB, nearly all of them zeros
_MOST = 1 << 28  # bytes of all parts


@dataclass(frozen=True)
class BootInfo:
    """The booted guest, and how it ended. `command` are QEMU's arguments, `seconds` the wall time from the entry.

    `kernel_hash` is the SHA-256 of the ELF, `build_id` that of its note, "" without one; `deterministic` says that the clock was
    the instruction counter: only such boots can be compared. `end` is the end in words.
    """

    kernel: str
    kernel_hash: str
    vmm: str
    command: tuple[str, ...]
    deterministic: bool
    seconds: float
    end: str
    build_id: str = ""


class Pieces:
    """A buffer of some length that is zero outside of the given parts. The parts are in order and do not overlap."""

    def __init__(self, size: int, parts: Sequence[tuple[int, bytes]]) -> None:
        self._size, self._parts = size, parts

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, end, _ = part.indices(self._size)
        for at, piece in self._parts:
            if at <= start and end <= at + len(piece):
                return piece[start - at : end - at]
        data = bytearray(max(end - start, 0))
        for at, piece in self._parts:
            low, high = max(at, start), min(at + len(piece), end)
            if low < high:
                data[low - start : high - start] = piece[low - at : high - at]
        return bytes(data)


def encode(info: BootInfo, data: Buffer, flows: Sequence[Buffer] = ()) -> Iterator[bytes]:
    """A saved boot in pieces, from the recorder's file and those of the CPUs' flows. Raises BadRecording."""
    recording = Recording(data)
    parts = recording.parts()
    saved = [packed(cpu, read(flow, recording.header.base)) for cpu, flow in enumerate(flows)]
    head = {"schema": SCHEMA, **asdict(info), "size": len(data), "parts": parts, "flows": [one for one, _ in saved]}
    yield json.dumps(head).encode() + b"\n"
    packer = zlib.compressobj(_LEVEL)
    for start, size in parts:
        for at in range(start, start + size, _PIECE):
            yield packer.compress(data[at : min(at + _PIECE, start + size)])
    yield packer.flush()
    for _, pieces in saved:
        yield from pieces


def decode(data: Buffer) -> tuple[BootInfo, Recording]:
    """Decode the output of `encode`. Raises BadRecording for other bytes, for a truncated file, and for one of another version."""
    head, at = _first_line(data)
    info, size = _info(head), head.get("size")
    if not isinstance(size, int) or not isinstance(head.get("parts"), list) or not 0 < size < _MOST_SIZE:
        raise BadRecording("its first line lacks what a saved boot has")
    parts = _parts(head["parts"], size)
    packed = _Packed(data, at)
    pieces = [(start, packed.read(length)) for start, length in parts]
    behind = packed.end()
    recording = Recording(Pieces(size, pieces))
    if recording.parts() != parts:  # tables that only the header speaks of would be read as zeros
        raise BadRecording("its parts do not match its header")
    recording.flows = _flows(head.get("flows", []), data, behind, recording.cpus)
    return info, recording


def _first_line(data: Buffer) -> tuple[dict[str, Any], int]:
    """The description of the boot, and where the first line ends."""
    line, found, _ = bytes(data[:_LINE]).partition(b"\n")
    try:
        head = json.loads(line) if found else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or not isinstance(schema := head.get("schema"), str) or not schema.startswith("pvhdbg/boot/"):
        raise BadRecording("it does not begin as a saved boot does")
    if schema != SCHEMA:
        raise BadRecording(f"its format is {schema[:40]}, and this pvhdbg reads {SCHEMA}")
    return head, len(line) + 1


def _parts(rows: list[Any], size: int) -> list[tuple[int, int]]:
    """Start and length of each part of a recorder's file of `size` bytes, in order."""
    found: list[tuple[int, int]] = []
    before = total = 0
    for row in rows:
        if not (isinstance(row, list) and len(row) == 2 and all(isinstance(one, int) for one in row)):
            raise BadRecording("its list of parts is damaged")
        start, length = row
        if start < before or length < 0 or start + length > size:
            raise BadRecording("its parts overlap, or lie outside of it")
        before, total = start + length, total + length
        if total > _MOST:
            raise BadRecording(f"its parts have more than {_MOST >> 20} MB")
        found.append((start, length))
    return found


class _Packed:
    """The compressed part of a file, from `at` on."""

    def __init__(self, data: Buffer, at: int) -> None:
        self._data, self._at = data, at
        self._unpacker, self._rest = zlib.decompressobj(), b""

    def read(self, size: int) -> bytes:
        """The next bytes, unpacked."""
        found = bytearray()
        while len(found) < size:
            got = self._unpacked(self._rest or self._more(), size - len(found))
            self._rest = self._unpacker.unconsumed_tail
            if not got and (self._unpacker.eof or (not self._rest and self._at >= len(self._data))):
                raise BadRecording("it is cut")
            found += got
        return bytes(found)

    def end(self) -> int:
        """Where the compressed part ends, once all of it is read."""
        if not self._unpacker.eof:
            self._unpacked(self._rest + self._more(), 1)  # the checksum
        if not self._unpacker.eof:
            raise BadRecording("it is cut")
        return self._at - len(self._unpacker.unused_data)

    def _more(self) -> bytes:
        piece = bytes(self._data[self._at : self._at + _PIECE])
        self._at += len(piece)
        return piece

    def _unpacked(self, packed: bytes, most: int) -> bytes:
        try:
            return self._unpacker.decompress(packed, most)
        except zlib.error:
            raise BadRecording("its compressed part is damaged") from None


def _flows(rows: Any, data: Buffer, at: int, cpus: int) -> dict[int, Flow]:
    """The flows behind the packed parts. Raises BadRecording."""
    found: dict[int, Flow] = {}
    for row in rows if isinstance(rows, list) else [None]:
        match row:
            case [int(cpu), int(tail), bool(full), [*chunks]] if 0 <= cpu < cpus and tail >= 0 and len(chunks) <= MOST_CHUNKS:
                pass
            case _:
                raise BadRecording("its list of flows is damaged")
        places: list[tuple[int, int]] = []
        pieces: list[bytes] = []
        for chunk in chunks:
            match chunk:
                case [int(number), int(size)] if 0 <= size <= len(data) - at:
                    places.append((number, size))
                    pieces.append(bytes(data[at : at + size]))
                    at += size
                case _:
                    raise BadRecording("its flow is cut")
        found[cpu] = unpacked(Saved(cpu, tail, full, tuple(places)), pieces)
    if at != len(data):
        raise BadRecording("something follows its end")
    return found


def _info(head: dict[str, Any]) -> BootInfo:
    values: dict[str, Any] = {field.name: head.get(field.name) for field in fields(BootInfo)}
    words = values["command"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadRecording("its first line does not say how the machine was started")
    values["command"] = tuple(words)
    for name in ("kernel", "kernel_hash", "vmm", "end", "build_id"):
        if not isinstance(values[name], str):
            raise BadRecording(f"its first line lacks {name}")
    if not isinstance(values["deterministic"], bool) or not isinstance(values["seconds"], (int, float)):
        raise BadRecording("its first line lacks what a saved boot has")
    return BootInfo(**values)
