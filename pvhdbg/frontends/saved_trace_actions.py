"""What the verbs about saved traces do: timeline, query, diff, export."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import closing, suppress
from itertools import islice

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.frontends.trace_actions import is_saved, milestones, saved
from pvhdbg.frontends.verbs import Answer, Request
from pvhdbg.report import trace_text
from pvhdbg.trace import queries
from pvhdbg.trace.engines.engine import End
from pvhdbg.trace.event import Event
from pvhdbg.trace.milestones import Milestone
from pvhdbg.trace.trace_file import Ending
from pvhdbg.watching import instruction

_WRITES = 1000  # changes that are shown


def query(request: Request) -> Answer:
    """`trace query`: the changes of a register, or the instructions around a sequence number."""
    names: dict[int, str] = {}
    records = saved(str(request.subject), names)
    what = str(request.what)
    if what.isdecimal() and what.isascii():
        found = queries.around(records, int(what), int(request.around), int(request.around))
        if not any(event.seq == int(what) for event in found):
            raise BadInput(f"the trace has no instruction {what}", "its sequence numbers begin at 0; trace with --what pc or state")
        return Answer(lambda style: trace_text.events(found, names.get, instruction, style))
    writes = list(islice(queries.writes(records, what), _WRITES))
    if not writes:
        raise BadInput(f"the trace shows no change of {printable(what)}", "name a register as the trace does, and trace with --what state")

    def shown(write: queries.Write) -> str:
        event = write.event
        place = f"{event.pc:#x} {printable(names.get(event.pc, ''))}".rstrip()
        old = "" if write.old is None else f"{write.old:#x} → "
        return f"{event.seq:>10}  {old}{write.new:#x}  {instruction(event.code, event.pc, event.mode.bits)}  at {place}"

    more = f"… and maybe more: the first {_WRITES} are shown\n" if len(writes) == _WRITES else ""
    return Answer(lambda _: "\n".join(shown(write) for write in writes) + "\n" + more)


def diff(request: Request) -> Answer:
    """`trace diff`: exit code 1 when the traces part."""
    names: dict[int, str] = {}
    one, other = saved(str(request.subject), names), saved(str(request.other), names)
    parted = queries.divergence(one, other)
    if parted is None:
        return Answer(lambda _: "the same instructions in both\n")
    at = next(event.seq for event in (parted.one, parted.other) if event is not None)
    text = [f"they part at {at}: {parted.why}", trace_text.events(parted.shared, names.get, instruction).rstrip()]
    for path, event in ((request.subject, parted.one), (request.other, parted.other)):
        rows: list[Event] = [] if event is None else [event]
        text.append(f"--- {printable(str(path))}\n{trace_text.events(rows, names.get, instruction).rstrip() or 'ends'}")
    return Answer(lambda _: "\n".join(part for part in text if part) + "\n", exit_code=1)


def timeline(request: Request) -> Answer:
    """`timeline`: of a saved trace, or of a boot that is traced for it now."""
    from pvhdbg.report import timeline_text

    path = str(request.subject)
    if not is_saved(path):
        seen = milestones(request)
        return Answer(lambda style: timeline_text.render(seen.milestones, seen.events, seen.names, seen.end.words, style))
    names: dict[int, str] = {}
    found: list[Milestone] = []
    count, why = 0, "the trace is cut"
    for record in saved(path, names):
        if isinstance(record, Milestone):
            found.append(record)
        elif isinstance(record, Event):
            count = record.seq + 1
        elif isinstance(record, Ending):
            count, why = record.events, End(record.why).words
    return Answer(lambda style: timeline_text.render(found, count, names.get, why, style))


def export(request: Request) -> Answer:
    """`trace export`: the file appears only when it is whole."""
    from pvhdbg.trace.exports import export as pieces

    names: dict[int, str] = {}
    output, size = str(request.output), 0
    if os.path.exists(output) and os.path.samefile(output, str(request.subject)):
        raise BadInput(f"{output} is the trace itself", "choose another -o")
    try:
        with closing(saved(str(request.subject), names)) as records:
            written = pieces(str(request.format_name), records, names.get)
            if os.path.islink(output) or (os.path.exists(output) and not os.path.isfile(output)):
                with open(output, "wb") as file:
                    size = sum(file.write(piece) for piece in written)
            else:
                size = _whole(output, written)
    except OSError as error:
        raise BadInput(f"{output} cannot be written: {error.strerror}", "make room, or choose another -o") from error
    return Answer(lambda _: f"{output}: {size} bytes, {request.format_name}\n")


def _whole(output: str, pieces: Iterable[bytes]) -> int:
    descriptor, partial = tempfile.mkstemp(prefix=".pvhdbg-", dir=os.path.dirname(output) or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            size = sum(file.write(piece) for piece in pieces)
        os.chmod(partial, 0o644)
        os.replace(partial, output)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    return size
