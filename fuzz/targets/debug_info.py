"""Debug info: source lines and layouts of structures, read by pyelftools within bounds of ours."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.corpus import files
from fuzz.target import Form, Output, Target
from pvhdbg.decode.text import printable
from pvhdbg.kernel.debug_info import DebugInfo


def _run(data: bytes) -> Iterator[Output]:
    info = DebugInfo(data)
    if not info:
        return
    yield Output(Form.TEXT, printable(str(info.line(0x401000))))
    for name in ("every", "bits", "e"):
        layout = info.structure(name)
        if layout is not None:
            yield Output(
                Form.TEXT, "\n".join(printable(f"{one.name} {one.type} {one.offset} {one.size}") for one in layout.members)
            )


def _seeds() -> Iterator[bytes]:
    """What gcc made is in the corpus: gcc may be missing."""
    return (path.read_bytes() for path in files("debug_info"))


TARGET = Target(_run, _seeds, (b".debug_info\0", b"\xff\xff\xff\xff"))
