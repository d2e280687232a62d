"""What the commands `snapshot save` and `snapshot export` do."""

from __future__ import annotations

from dataclasses import replace

from pvhdbg.commands.table import Answer, Request
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput


def save(request: Request) -> Answer:
    """`snapshot save`: write the machine at its entry to a file; in a live session as it stands."""
    from pvhdbg.commands.output import open_output
    from pvhdbg.decode.redact import without_command_lines
    from pvhdbg.decode.snapshot_file import encode
    from pvhdbg.machine.capture import with_tables
    from pvhdbg.machine.subject import observe

    session = request.session
    if session is not None and request.output == "-":
        raise BadInput("a session saves to files only", "name one: snapshot save boot.pvhsnap")
    with open_output(str(request.output)) as output:
        if session is None:
            boot = observe(replace(request, values={**request.values, "whole": True})).boot
        else:
            boot = with_tables(session.target, session.boot())
        snapshot = without_command_lines(boot) if "cmdline" in (request.redact or ()) else boot.snapshot
        output.write(encode(snapshot))
    held = sum(len(piece.data) for piece in snapshot.memory.pieces)
    if request.output == "-":  # it is the answer
        return Answer(lambda _: "")
    return Answer(lambda _: f"{request.output}: {len(snapshot.registers.values)} registers and {held} bytes of memory saved\n")


def export(request: Request) -> Answer:
    """`snapshot export`: write a snapshot as an ELF core."""
    from pvhdbg.commands.output import open_output
    from pvhdbg.machine.capture import decoded
    from pvhdbg.machine.subject_kind import kind_of
    from pvhdbg.report.core_export import core
    from pvhdbg.spec.revisions import V1
    from pvhdbg.targets.recorded import open_snapshot

    if kind_of(str(request.file)) == "core":
        raise BadInput(f"{request.file} is an ELF core already", "open it with GDB, or judge it with: pvhdbg check")
    with open_output(str(request.output)) as output:
        target = open_snapshot(str(request.file))
        boot = decoded(target, target.snapshot, V1.name)
        exported = core(replace(boot, snapshot=target.snapshot))
        output.write_bytes(exported.data)
    if request.output == "-":
        return Answer(lambda _: "")
    size = f"{request.output}: an ELF core of {len(exported.data)} bytes\n"
    missing = ", ".join(exported.unobserved)
    note = f"  0 in it, because nobody observed them: {printable(missing)}\n" if missing else ""
    return Answer(lambda _: size + note)
