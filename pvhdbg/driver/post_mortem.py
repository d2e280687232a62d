"""What a recording shows of a guest's end: a core or a snapshot, from which nothing can be run. What led there was not recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from pvhdbg.decode.cpu_mode import Mode, interrupts_on, paging_on, pc_in, runs_64_bit_code
from pvhdbg.decode.text import safe
from pvhdbg.disassembly import available, instruction_text
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.driver.result import NO_DISASSEMBLER
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.core_subject import several_cpus
from pvhdbg.machine.log_buffer import log_messages
from pvhdbg.machine.names import Names
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session
from pvhdbg.machine.subject import open_subject
from pvhdbg.machine.subject_kind import SubjectKind, subject_kind
from pvhdbg.machine.surroundings import moved, surroundings
from pvhdbg.model import BackingKind, Registers, Segments
from pvhdbg.spec.x86 import EFER
from pvhdbg.targets.core import CoreTarget
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.calls import chain, with_lines
from pvhdbg.tracing.death import Death, DeathKind, StoppedCpu, panicked
from pvhdbg.tracing.encoding import LONGEST
from pvhdbg.tracing.engines.code_there import AHEAD, instructions, stopped_cpu
from pvhdbg.tracing.engines.oopsed import oopsed
from pvhdbg.tracing.explain import explain, on_its_cpu
from pvhdbg.tracing.guest_log import messages
from pvhdbg.tracing.last_words import telling

_WORDS = 1000  # lines of the log buffer that are searched
_ZEROS = 32  # bytes of zeros at the pc
_HLT, _JUMP_TO_ITSELF = b"\xf4", b"\xeb\xfe"
_LONG = 1 << EFER["LME"] | 1 << EFER["LMA"]
_BY_MACHINE = safe("a core does not hold EFER: its bit LMA follows from the core's e_machine, and no other bit is known")


@contextmanager
def recording(about: SubjectOptions, progress: Progress) -> Iterator[Session]:
    """A session over a core or a snapshot. The kernel that `--kernel` names gives names; a snapshot is not judged by it. Raises PvhdbgError."""
    kind, way = subject_kind(about.subject), about.way
    if kind not in (SubjectKind.CORE, SubjectKind.SNAPSHOT):
        raise BadInput(
            f"{about.subject} is a {kind.value}, which shows no end of a guest", "give a kernel, a gdbstub, a core or a snapshot"
        )
    bare = way._replace(here=kind is SubjectKind.CORE, kernel=way.kernel if kind is SubjectKind.CORE else None)
    with ExitStack() as stack:
        opened = stack.enter_context(open_subject(about._replace(way=bare), progress))
        image = opened.image
        if image is None and way.kernel is not None:
            image = stack.enter_context(open_kernel(way.kernel))
        session = Session(opened.target, image, warnings=opened.warnings, progress=progress)
        session.adopt(opened.boot)
        yield session


def diagnosed(session: Session, vcpu: int | None = None) -> Diagnosis:
    """Explain the state of a recorded machine. `vcpu` is the CPU to describe; without it the first one, or the one that must have faulted.

    Raises BadInput for a CPU that the recording does not show.
    """
    boot, names, read = session.boot(), Names(session.image), session.physical
    states = _states(session)
    if vcpu is not None and vcpu >= len(states):
        raise BadInput(f"the recording shows no CPU {vcpu}", "0 is the first; a core holds each CPU, a snapshot one")
    around = moved(surroundings(boot, session.image, read, names), session.placement)
    if any(one.kind is BackingKind.UNKNOWN for one in around.backing or ()):
        around = replace(around, backing=None)  # what a core does not hold may be RAM as well
    standing = [stopped_cpu(cpu, state, partial(around.bytes_at, size=LONGEST, state=state)) for cpu, state in enumerate(states)]
    death = _death(standing, vcpu, around)
    said = messages(death.state, around) or log_messages(session)
    around = replace(around, serial=tuple(safe(one.line()) for one in said[-_WORDS:]))
    if death.kind is DeathKind.LEFT and panicked(around.serial) is not None:
        death = replace(death, kind=DeathKind.PANIC, left=None)
    death, calls = oopsed(death, around)
    mode, pc = death.mode or Mode.PROTECTED, pc_in(death.state) or 0
    death = replace(death, there=instructions(around.bytes_at(pc, AHEAD, death.state), pc, mode))
    found = explain(death, around, instruction_text)
    what = "snapshot" if not isinstance(session.target, CoreTarget) else "core"
    theirs = [one for one in session.warnings if one != several_cpus(len(states))]  # here each of them is looked at
    warnings = [*theirs, safe(f"how it came there was not recorded: the subject is a {what}")]
    if isinstance(session.target, CoreTarget) and boot.registers.get("efer") is None:
        warnings.append(_BY_MACHINE)
    if not available():
        warnings.append(NO_DISASSEMBLER)
    name = around.name
    kept = {pc: name(pc) for pc in (death.pc,) if pc is not None}
    calls = with_lines(calls or chain(death.state, around), around.line)
    return Diagnosis(death, found, kept.get, (), tuple(warnings), telling(around.serial, around), calls)


def _states(session: Session) -> list[dict[str, int]]:
    """The registers and hidden state of each CPU; EFER as far as the core shows the mode."""
    boot, target = session.boot(), session.target
    first = (boot.registers, boot.segments)
    cpus = [first, *target.others] if isinstance(target, CoreTarget) else [first]
    found = []
    for index, (registers, segments) in enumerate(cpus):
        state = _state(registers, segments)
        if "efer" not in state:
            known = target.long_mode if isinstance(target, CoreTarget) and index == 0 else None
            if not paging_on(registers):
                known = False  # EFER.LMA is 0 without paging
            elif known is None and runs_64_bit_code(registers, segments):
                known = True
            if known is not None:
                state["efer"] = _LONG if known else 0
        found.append(state)
    return found


def _state(registers: Registers, segments: Segments) -> dict[str, int]:
    state = {name: registers[name] for name in registers}
    for name, segment in segments.by_name.items():
        parts = {"base": segment.base, "limit": segment.limit, "flags": segment.flags}
        state |= {f"{name}_{part}": value for part, value in parts.items() if value is not None}
    for name, table in (("gdt", segments.gdt), ("idt", segments.idt)):
        if table is not None:
            state |= {f"{name}_base": table.base, f"{name}_limit": table.limit}
    return state


def _death(standing: list[StoppedCpu], vcpu: int | None, around: Surroundings) -> Death:
    """What the states prove. A CPU of several that stands still is not the machine's death while another one may run."""
    told = standing[vcpu or 0]
    several = len(standing) > 1
    left = Death(
        DeathKind.LEFT, told.state, left=told.at, touched=told.touched, needs=told.needs, cpu=told.cpu if several else None,
        standing=tuple(standing) if several and vcpu is None else (),
    )  # fmt: skip
    left = on_its_cpu(left, around)
    kinds = [_still(one.state, around) for one in standing]
    kind = kinds[left.cpu or 0]
    if kind is None or None in kinds:
        return left
    loop = (left.left.pc,) if kind is DeathKind.LOOP and left.left is not None else ()
    return replace(left, kind=kind, left=None, loop=loop, standing=())


def _still(state: Mapping[str, int], around: Surroundings) -> DeathKind | None:
    """Why a CPU in this state does nothing more of use; None where the state does not prove it. A fault is proven elsewhere."""
    pc, physical = pc_in(state), around.physical(pc_in(state) or 0, state)
    if pc is None or physical is None:
        return None
    code = around.bytes_at(pc, _ZEROS, state)
    if around.backing is not None and around.backed(physical) is None:
        return DeathKind.NOWHERE
    if len(code) == _ZEROS and not any(code):
        return DeathKind.ZEROS
    if interrupts_on(state) is not False:
        return None
    if around.bytes_at(pc - 1, 1, state) == _HLT:
        return DeathKind.HALTED
    return DeathKind.LOOP if code.startswith(_JUMP_TO_ITSELF) else None
