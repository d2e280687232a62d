"""The engine that only stops at milestones, against the log engine, which sees every instruction."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pvhdbg import guests
from pvhdbg.errors import TargetError
from pvhdbg.kernel.image import open_kernel
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Capabilities
from pvhdbg.tracing.engines.breakpoints import BreakpointEngine
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.event import EndReason, Event
from pvhdbg.tracing.milestones import Finder

AtEntry = Callable[..., RemoteTarget]


def found(
    engine: BreakpointEngine | LogEngine, watched: dict[int, str] | None = None, until: str = ""
) -> list[tuple[str, int | None, str]]:
    finder = Finder(watched)
    rows: list[tuple[str, int | None, str]] = []
    for batch in engine.batches(Bounds(seconds=20)):
        rows += [(one.name, one.pc, one.detail) for one in finder.feed(batch)]
        if rows and rows[-1][0] == until:
            break
    return rows


def events(engine: BreakpointEngine, bounds: Bounds) -> list[Event]:
    return [event for batch in engine.batches(bounds) for event in batch]


def test_every_milestone_of_the_mode_switch_as_the_log_has_it(at_entry: AtEntry) -> None:
    by_stops, by_log = BreakpointEngine(at_entry("long_mode")), LogEngine(at_entry("long_mode"), states=True)
    assert found(by_stops) == found(by_log)
    assert (by_stops.end.why, by_stops.end.pc) == (by_log.end.why, by_log.end.pc)
    assert by_stops.stops < 20


def test_a_distributions_kernel_to_start_kernel(at_entry: AtEntry, vmlinux: Path) -> None:
    with open_kernel(str(vmlinux)) as image:
        symbols = image.symbols()
        places = [
            (symbols.virtual_address(name), symbols.physical_address(name)) for name in MILESTONES if name in set(symbols.names())
        ]
        watched = {address: symbols.name_at(symbols.to_physical(address)) or "" for place in places for address in place}
    by_stops = found(BreakpointEngine(at_entry(vmlinux, memory="512M"), places), watched, "start_kernel")
    by_log = found(LogEngine(at_entry(vmlinux, memory="512M"), states=True), watched, "start_kernel")
    assert [row[:2] for row in by_stops] == [row[:2] for row in by_log]


class FewSlots(RemoteTarget):
    """A machine with four breakpoints, as KVM has them: it refuses the fifth."""

    def set_breakpoint(self, address: int) -> None:
        if len(self.breakpoints - {address}) >= 4:
            raise TargetError("no hardware breakpoint left", "")
        super().set_breakpoint(address)


class NoMonitor(RemoteTarget):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, monitor=False)


def as_(kind: type[RemoteTarget], target: RemoteTarget) -> Any:
    target.__class__ = kind
    return target


def test_four_slots_are_a_sliding_window_and_it_says_so(at_entry: AtEntry) -> None:
    with open_kernel(str(guests.path("long_mode"))) as image:
        symbols = image.symbols()
        places = [
            (symbols.physical_address(name),)
            for name in ("enable_pae", "load_cr3", "enable_lme", "enable_paging", "far_jump", "print_fields")
        ]
    target = as_(FewSlots, at_entry("long_mode"))
    engine = BreakpointEngine(target, places)
    pcs = [event.pc for event in events(engine, Bounds(seconds=20))]
    assert engine.end.why is EndReason.HALTED
    assert {place[0] for place in places} <= set(pcs)
    assert any("share 4 breakpoints, a sliding window" in warning for warning in engine.warnings)
    assert not target.breakpoints


def test_without_a_monitor_the_same_places_are_found(at_entry: AtEntry) -> None:
    seen = events(BreakpointEngine(as_(NoMonitor, at_entry("long_mode"))), Bounds(seconds=20))
    whole = events(BreakpointEngine(at_entry("long_mode")), Bounds(seconds=20))
    assert [(one.pc, one.mode) for one in seen] == [(one.pc, one.mode) for one in whole]


def test_it_stops_before_an_address_and_leaves_no_breakpoint(at_entry: AtEntry) -> None:
    target = at_entry("long_mode")
    with open_kernel(str(guests.path("long_mode"))) as image:
        goal = image.symbols().physical_address("far_jump")
    engine = BreakpointEngine(target)
    events(engine, Bounds((goal,), seconds=20))
    assert (engine.end.why, target.read_registers()["rip"]) == ("address", goal)
    assert not target.breakpoints


def test_a_triple_fault_ends_it(at_entry: AtEntry) -> None:
    engine = BreakpointEngine(at_entry("crashers", "crash=wild-esp"))
    events(engine, Bounds(seconds=20))
    assert engine.end.why is EndReason.SHUTDOWN


def test_an_endless_loop_ends_by_time_and_by_request(at_entry: AtEntry) -> None:
    target = at_entry("crashers", "crash=endless-loop")
    engine = BreakpointEngine(target, [(0x1FF000,)])
    events(engine, Bounds(seconds=0.3))
    assert engine.end.why is EndReason.TIME
    engine = BreakpointEngine(target, [(0x1FF000,)])
    engine.stop()
    events(engine, Bounds(seconds=20))
    assert engine.end.why is EndReason.INTERRUPTED
    assert not target.breakpoints
