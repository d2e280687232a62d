"""What is known of a death in addition to what was seen of its end: the kernel's log buffer, the recorder's last blocks, an Oops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pvhdbg.decode.text import safe
from pvhdbg.machine.trail import last_instructions
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.calls import Call
from pvhdbg.tracing.death import Death, DeathKind, panicked
from pvhdbg.tracing.engines.code_there import loads, stores
from pvhdbg.tracing.engines.oopsed import oopsed
from pvhdbg.tracing.explain import on_its_cpu
from pvhdbg.tracing.guest_log import messages
from pvhdbg.tracing.recording import Recording

_LINES = 1000  # of the log buffer
_BY_BLOCKS = (DeathKind.TRIPLE_FAULT, DeathKind.SHUTDOWN, DeathKind.RESET, DeathKind.HALTED)


def with_log_buffer(death: Death, around: Surroundings) -> Surroundings:
    """The surroundings of a Linux that said nothing of its panic on the serial port, with the lines of its log buffer."""
    if not around.patches_itself or panicked(around.serial) is not None:
        return around
    return replace(around, serial=(*around.serial, *(safe(one.line()) for one in messages(death.state, around)[-_LINES:])))


def completed(
    death: Death, around: Surroundings, recording: Recording | None, read: Callable[[int, int], bytes]
) -> tuple[Death, tuple[Call, ...]]:
    """The death with its CPU, its last instructions and its exception as far as they are known; and the calls that the words of an Oops give.

    `read` reads physical memory.
    """
    death = on_its_cpu(death, around)
    mode = death.mode
    if recording is not None and recording.entered and not death.path and mode is not None and death.kind in _BY_BLOCKS:
        death = replace(death, path=last_instructions(recording, death.cpu or 0, mode, read, death.pc))
    if around.not_cleared:
        death = replace(death, loads=loads(death.path))
    if death.kind.final and death.first is None:
        death = replace(death, stores=stores(death.path))
    return oopsed(death, around)
