"""`pvhdbg why`: boot, watch for the death, explain it."""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.decode.boot_state import BootState, Text, Unread
from pvhdbg.frontends.trace_actions import NOT_REACHED, instruction, interruptible, seconds
from pvhdbg.frontends.trace_subject import Machine, at_entry
from pvhdbg.frontends.verbs import Answer, Request
from pvhdbg.model import Unavailable
from pvhdbg.spec.start_info import StartInfoV1
from pvhdbg.trace.places import Surroundings, View

_SERIAL = 100  # lines of the serial port that are looked at
_SHOWN = 5


def why(request: Request) -> Answer:
    """`why`: the answer holds the verdict and what it rests on; exit code 3 when nothing died."""
    from pvhdbg.report import why_text
    from pvhdbg.trace.engines.watch import Watch
    from pvhdbg.trace.explain import explain

    limit = seconds(request)
    with at_entry(request) as machine:
        around = surroundings(machine)
        qemu = machine.qemu
        watch = Watch(
            machine.target,
            around,
            code=machine.names.code,
            status=lambda: None if qemu is None else qemu.wait(1.0),
            serial=lambda: () if qemu is None else qemu.serial_tail(_SERIAL),
            progress=request.progress,
        )
        with interruptible(watch):
            death = watch.until_dead(limit)
        serial = tuple(qemu.serial_tail(_SERIAL)) if qemu is not None else ()
        around = surroundings(machine, serial)
        found = explain(death, around, instruction)
        names = machine.names.kept([event.pc for event in death.path] + [one for one in (death.pc,) if one is not None])
    warnings = [*machine.warnings, *watch.warnings]
    return Answer(
        lambda style: why_text.render(death, found, names, instruction, serial[-_SHOWN:], warnings, style),
        lambda: why_text.document(death, found, names, serial[-_SHOWN:], warnings),
        NOT_REACHED if death.kind == "alive" else 0,
    )


def surroundings(machine: Machine, serial: tuple[str, ...] = ()) -> Surroundings:
    """What a death on this machine is judged by."""
    snapshot = machine.boot.snapshot
    image = machine.image
    if image is not None:
        views = tuple(View(load.p_vaddr, load.p_paddr, load.p_memsz) for load in image.elf.loads)
    else:
        views = tuple(View(load.start, load.start, load.size) for load in (snapshot.kernel.loads if snapshot.kernel else ()))
    start = {name: snapshot.registers[name] for name in snapshot.registers}
    for name, table in (("gdt", snapshot.segments.gdt), ("idt", snapshot.segments.idt)):
        if table is not None:
            start |= {f"{name}_base": table.base, f"{name}_limit": table.limit}
    return Surroundings(
        read=machine.target.read_memory,
        name=machine.names,
        entry=snapshot.entry.address if snapshot.entry.is_entry else None,
        views=views,
        backing=snapshot.backing,
        handed=tuple(_handed(machine.boot)),
        complaints=_complaints(machine.boot) if snapshot.entry.is_entry else (),
        start=start,
        serial=serial,
    )


def _handed(boot: BootState) -> Iterable[tuple[str, int, int]]:
    """The parts of the hand-off: name, address, size."""
    try:
        info = boot.start_info
    except Unavailable:
        return
    yield "start_info", info.address, info.raw.sizeof()
    if isinstance(info.command_line, Text):
        yield "the command line", info.command_line.address, len(info.command_line.data) + 1
    if isinstance(info.raw, StartInfoV1) and info.raw.memmap_entries and not isinstance(info.memory_map, Unread):
        yield "the memory map", info.raw.memmap_paddr, 24 * len(info.memory_map or ())
    for index, module in enumerate(() if isinstance(info.modules, Unread) else info.modules):
        yield f"module {index}", module.entry.paddr, module.entry.size
        yield "the module list", module.address, module.entry.sizeof()


def _complaints(boot: BootState) -> tuple[str, ...]:
    """What the rules find wrong with the hand-off, in words; what is a recorded deviation is not repeated here."""
    from pvhdbg.rules.catalogue import judge
    from pvhdbg.rules.declare import Outcome, Severity

    failed = [verdict for verdict in judge(boot) if verdict.outcome is Outcome.FAIL]
    failed.sort(key=lambda verdict: verdict.severity is not Severity.MUST)
    return tuple(
        f"{one.at} is {one.found}, expected {one.expected} ({verdict.rule.id})" for verdict in failed for one in verdict.violations[:2]
    )[:8]
