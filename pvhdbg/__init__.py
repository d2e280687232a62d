"""pvhdbg: a boot debugger for the Xen PVH (x86/HVM direct boot) ABI. The names below are the public API.

They are imported when they are first used, so that `import pvhdbg` and a short command cost nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing's, which says the same, would be a fifth of `pvhdbg --version`
if TYPE_CHECKING:
    from pvhdbg.api import check
    from pvhdbg.decode.boot_state import BootState, decode
    from pvhdbg.errors import PvhdbgError
    from pvhdbg.machine.capture import Plan, capture
    from pvhdbg.model import Registers, Segment, Snapshot, Unavailable
    from pvhdbg.report.document import Report
    from pvhdbg.rules.catalogue import RULES, judge
    from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
    from pvhdbg.spec.revisions import REVISIONS, Revision
    from pvhdbg.version import VERSION

_HOME = {
    "BootState": "decode.boot_state",
    "Outcome": "rules.declare",
    "Plan": "machine.capture",
    "PvhdbgError": "errors",
    "REVISIONS": "spec.revisions",
    "RULES": "rules.catalogue",
    "Registers": "model",
    "Report": "report.document",
    "Revision": "spec.revisions",
    "Rule": "rules.declare",
    "Segment": "model",
    "Severity": "rules.declare",
    "Snapshot": "model",
    "Unavailable": "model",
    "VERSION": "version",
    "Verdict": "rules.declare",
    "Violation": "rules.declare",
    "capture": "machine.capture",
    "check": "api",
    "decode": "decode.boot_state",
    "judge": "rules.catalogue",
}

__all__ = [
    "REVISIONS",
    "RULES",
    "VERSION",
    "BootState",
    "Outcome",
    "Plan",
    "PvhdbgError",
    "Registers",
    "Report",
    "Revision",
    "Rule",
    "Segment",
    "Severity",
    "Snapshot",
    "Unavailable",
    "Verdict",
    "Violation",
    "capture",
    "check",
    "decode",
    "judge",
]


if not TYPE_CHECKING:  # with it, a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"pvhdbg.{_HOME[name]}"), name)
