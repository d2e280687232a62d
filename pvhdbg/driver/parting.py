"""Where a boot under KVM and the same boot under TCG part: milestones on both sides, then single steps from the last common one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.driver.traced_machine import TracedMachine, at_entry
from pvhdbg.errors import EntryNotReached, GuestDied, TargetError
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.targets.run import Progress, run_until
from pvhdbg.targets.target import StopKind

_STEPS = 20_000  # KVM steps some thousand instructions a second
_SAME = 1 << 12  # steps at one pc, such as the iterations of a REP
_STEPPING = 20.0  # seconds
_ENTRY = "the entry"


@dataclass(frozen=True)
class AcceleratorParting:
    """Behind `milestone`, the last one that both reached, `steps` instructions were the same, up to that at `pc`.

    Then KVM was at `kvm` and TCG at `tcg`; None where the guest ended. Where all steps were the same, `parted` is False.
    """

    milestone: str
    steps: int
    pc: int
    kvm: int | None
    tcg: int | None
    parted: bool
    name: str | None = None

    @property
    def words(self) -> SafeText:
        """In one sentence."""
        where = f"{self.pc:#x}" + (f" ({self.name})" if self.name else "")
        same = f"{self.steps:,} instructions behind {self.milestone}"
        if not self.parted:
            return safe(f"KVM and TCG executed the same code up to {where}, {same}: where they part was not found")
        ends = [
            f"under {side} {'it ended' if pc is None else f'it went on at {pc:#x}'}"
            for side, pc in (("KVM", self.kvm), ("TCG", self.tcg))
        ]
        return safe(f"KVM and TCG part after the instruction at {where}, {same}: {', '.join(ends)}")


def parting(kvm: SubjectOptions, tcg: SubjectOptions, seconds: float, progress: Progress) -> AcceleratorParting:
    """Boot both to their last common milestone, within `seconds`, and step them. Raises PvhdbgError."""
    deadline = time.monotonic() + seconds
    common = min((_reached(about, deadline, progress) for about in (kvm, tcg)), key=len)
    with ExitStack() as stack:
        one, other = (stack.enter_context(_at(about, common, deadline, progress)) for about in (kvm, tcg))
        progress("stepping both machines until they part")
        return _stepped(one, other, common[-1] if common else _ENTRY, time.monotonic() + _STEPPING)


def _reached(about: SubjectOptions, deadline: float, progress: Progress) -> list[str]:
    """The milestones that a boot reaches, in their order."""
    found: list[str] = []
    with at_entry(about, progress) as machine:
        for name in MILESTONES:
            if machine.names.linked(name) is None:
                continue
            try:
                _run(machine, name, deadline)
            except (EntryNotReached, GuestDied):
                break
            found.append(name)
    return found


def _run(machine: TracedMachine, name: str, deadline: float) -> None:
    run_until(machine.target, machine.names.addresses(name), max(deadline - time.monotonic(), 0.1))


@contextmanager
def _at(about: SubjectOptions, common: list[str], deadline: float, progress: Progress) -> Iterator[TracedMachine]:
    with at_entry(about, progress) as machine:
        if common:
            _run(machine, common[-1], deadline)
        yield machine


def _stepped(kvm: TracedMachine, tcg: TracedMachine, milestone: str, deadline: float) -> AcceleratorParting:
    pc, steps = kvm.target.read_registers()["rip"], 0
    while steps < _STEPS and time.monotonic() < deadline:
        after = _next(kvm, pc), _next(tcg, pc)
        if after[0] != after[1]:
            return AcceleratorParting(milestone, steps, pc, *after, True, kvm.names(pc))
        if after[0] is None or after[0] == pc:  # both ended, or stay there
            break
        pc, steps = after[0], steps + 1
    return AcceleratorParting(milestone, steps, pc, pc, pc, False, kvm.names(pc))


def _next(machine: TracedMachine, pc: int) -> int | None:
    """The pc after the instruction at `pc`, all iterations of a REP; None where the guest ended."""
    for _ in range(_SAME):
        try:
            if machine.target.step().kind is not StopKind.BREAKPOINT:
                return None
            after = machine.target.read_registers()["rip"]
        except TargetError:
            return None
        if after != pc:
            return after
    return pc
