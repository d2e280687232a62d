"""Functions for GDB's expressions and conditions: `$pvh_ok()`. Runs in GDB's own Python only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import gdb

from pvhdbg.in_gdb.session import STATE, entry_address, guarded
from pvhdbg.machine.subject import Observed
from pvhdbg.rules.declare import Outcome

if TYPE_CHECKING:
    from pvhdbg.report.document import Report
    from pvhdbg.rules.declare import Rule


class _Function(gdb.Function):
    """A convenience function; `work` is what it returns."""

    def __init__(self, name: str, work: Callable[..., Any]) -> None:
        super().__init__(name)
        self._work = work

    def invoke(self, *arguments: gdb.Value) -> Any:
        """Called for GDB's expressions."""
        return guarded(lambda: self._work(*arguments))


def _entry_address() -> int:
    return entry_address(STATE.session())


def _start_info() -> Any:
    address = STATE.session().hand_off().start_info.address
    try:
        pointer = gdb.lookup_type("struct hvm_start_info").pointer()
    except gdb.error:
        return address
    return gdb.Value(address).cast(pointer)


def _report(rules: Iterable[Rule]) -> Report:
    from pvhdbg.commands.judging import report

    session = STATE.session()
    return report(Observed(session.hand_off(), (), session.file), rules, session.settings.strict)


def _ok() -> bool:
    from pvhdbg.rules.catalogue import RULES

    return _report(RULES).exit_code == 0


def _verdict(id: gdb.Value) -> str:
    from pvhdbg.rules.catalogue import find

    return _report([find(id.string())]).verdicts[0].outcome.value


def _failed(id: gdb.Value) -> bool:
    return _verdict(id) == Outcome.FAIL.value


_FUNCTIONS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("pvh_entry", "The address of the machine's PVH entry: break *$pvh_entry()", _entry_address),
    ("pvh_start_info", "The physical address of start_info; with debug information, a struct hvm_start_info *.", _start_info),
    ("pvh_ok", "1 if the hand-off conforms, by `set pvh spec` and `set pvh strict`; else 0.", _ok),
    ("pvh_verdict", 'The outcome of one rule, as a string: $_streq($pvh_verdict("PVH-CR0-PE"), "pass")', _verdict),
    ("pvh_failed", '1 if that rule failed, else 0, for a condition: hbreak *0x100005 if $pvh_failed("PVH-CR0-PE")', _failed),
)


def install() -> None:
    """Make the functions."""
    for name, doc, work in _FUNCTIONS:
        type("_Named", (_Function,), {"__doc__": doc})(name, work)
