"""`until MODE`: steps until the CPU is in a mode."""

from __future__ import annotations

import time
from dataclasses import replace

from pvhdbg.commands.declare import Answer, Context
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.decode import qemu_monitor
from pvhdbg.decode.cpu_mode import CODE_64, long_mode_active, mode_of
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.machine.session import Session
from pvhdbg.model import Registers
from pvhdbg.repl.actions.shared import face_of, hit_line, lines_of, next_instruction, session_of, stop_lines
from pvhdbg.targets.target import Stop, StopKind
from pvhdbg.tracing.mode_words import MODES

_TELL_EVERY = 0.5  # seconds


def until_mode(context: Context, mode: str) -> Answer:
    session, machine = session_of(context), face_of(context).machine
    session.needs_control("until")
    machine.needs_machine()
    reached = _Reaches(session, mode)
    if reached(session.registers()):
        raise BadInput(f"the machine is in that mode already: {mode}", "see: mode")
    since = told = time.monotonic()

    def tell(pc: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            context.progress(f"until {mode}: at {pc:#x}")

    with machine.directly():
        context.progress(f"until {mode}")
        walked = machine.runner.until_true(reached, machine.seconds, tell)
    if machine.ended is not None or walked.stop is not None:
        return lines_of(stop_lines(context, walked.stop or Stop(StopKind.SHUTDOWN, 3, machine.ended or ""), None))
    took = f"{time.monotonic() - since:.1f} s"
    said = f"{mode} after {took}" if walked.reached else f"not in {mode} yet after {took}"
    said += " (--timeout gives it more)" if walked.late else ""
    hit = [hit_line(walked.found, context)] if walked.found is not None else []
    answer = lines_of([*hit, said, *next_instruction(context)])
    return replace(answer, exit_code=NOT_REACHED) if walked.late else answer


class _Reaches:
    """Whether registers show one of the modes of a word; once long mode is active, each step reads CS to detect 64-bit code."""

    def __init__(self, session: Session, mode: str) -> None:
        self._session, self._mode = session, mode
        if session.cpu()[0].get("cr0") is None:
            raise TargetError(
                "this stub does not show cr0, and the machine ran freely: its mode is not known", "use a symbol: until SYMBOL"
            )

    def __call__(self, registers: Registers) -> bool:
        if registers.get("cr0") is None:
            return self._by_followed()
        cr0, cr4, efer, eflags = (registers.get(name) or 0 for name in ("cr0", "cr4", "efer", "eflags"))
        flags = self._cs_flags() if long_mode_active(registers) else None  # a selector may stay the same: Linux keeps 8
        return mode_of(cr0, cr4, efer, flags, eflags) in MODES[self._mode]

    def _by_followed(self) -> bool:
        registers, segments = self._session.cpu()
        cr0, cr4, efer, eflags = (registers.get(name) or 0 for name in ("cr0", "cr4", "efer", "eflags"))
        return mode_of(cr0, cr4, efer, segments["cs"].flags, eflags) in MODES[self._mode]

    def _cs_flags(self) -> int:
        """The cached descriptor of CS; where it is not shown, that of 64-bit code: kernels leave compatibility mode at once."""
        if not self._session.target.capabilities.monitor:
            return CODE_64
        return qemu_monitor.cpu_state(self._session.target.monitor("info registers")).segments["cs"].flags or 0
