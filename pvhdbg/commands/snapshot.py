"""The commands `snapshot save` and `snapshot export`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.output import open_output
from pvhdbg.decode.redact import without_command_lines
from pvhdbg.decode.snapshot_file import encode
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.machine.capture import decoded, with_tables
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import observe, open_subject
from pvhdbg.machine.subject_kind import SubjectKind, subject_kind
from pvhdbg.record import NamedTuple
from pvhdbg.spec.revisions import V1
from pvhdbg.targets.recorded import open_snapshot


class SaveOptions(NamedTuple):
    """The options of `snapshot save`."""

    output: str
    redact: tuple[Literal["cmdline"], ...] = ()
    about: SubjectOptions = SubjectOptions()


class SnapshotExportOptions(NamedTuple):
    """The options of `snapshot export`."""

    file: str
    output: str


@takes(SaveOptions)
def save(options: SaveOptions, context: Context) -> Answer:
    """`snapshot save`: write the machine at its entry to a file; in a live session, its current state."""
    session = context.session
    if session is not None and options.output == "-":
        raise BadInput("a session saves to a file only, not to standard output", "name one: snapshot save boot.pvhsnap")
    with open_output(options.output) as output:
        if session is None:
            boot = observe(open_subject(options.about, context.progress, whole=True, hashed=True)).boot
        else:
            boot = with_tables(session.target, session.boot())
        snapshot = without_command_lines(boot) if "cmdline" in options.redact else boot.snapshot
        output.write(encode(snapshot))
    held = sum(len(piece.data) for piece in snapshot.memory.pieces)
    if options.output == "-":  # the file is the answer
        return Answer(lambda _: "")
    return Answer(lambda _: f"{options.output}: {len(snapshot.registers.values)} registers and {held} bytes of memory saved\n")


@takes(SnapshotExportOptions)
def export(options: SnapshotExportOptions, context: Context) -> Answer:
    """`snapshot export`: write a snapshot as an ELF core."""
    from pvhdbg.report.core_export import core

    if subject_kind(options.file) is SubjectKind.CORE:
        raise BadInput(f"{options.file} is an ELF core already", "open it with GDB, or judge it with: pvhdbg check")
    with open_output(options.output) as output:
        target = open_snapshot(options.file)
        boot = decoded(target, target.snapshot, V1.name)
        exported = core(replace(boot, snapshot=target.snapshot))
        output.write_bytes(exported.data)
    if options.output == "-":
        return Answer(lambda _: "")
    size = f"{options.output}: an ELF core of {len(exported.data)} bytes\n"
    missing = ", ".join(exported.unobserved)
    note = f"  written as 0, because they were not observed: {printable(missing)}\n" if missing else ""
    return Answer(lambda _: size + note)
