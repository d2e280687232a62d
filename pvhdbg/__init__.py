"""pvhdbg: a boot debugger for the Xen PVH (x86/HVM direct boot) ABI. The names below are the public API.

They are imported when they are first used, so that `import pvhdbg` and a short command cost nothing. None of them is the name of a
submodule: importing that would put the module in its place.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing's, which says the same, would be a fifth of `pvhdbg --version`
if TYPE_CHECKING:
    from pvhdbg.api import check, diff, trace, wait, why
    from pvhdbg.booted import Guest, Handoff, connect, launch, load, save
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.boot_state import decode as decode_snapshot
    from pvhdbg.errors import PvhdbgError
    from pvhdbg.kernel.image import open_kernel
    from pvhdbg.machine.capture import Plan
    from pvhdbg.machine.capture import capture as capture_entry
    from pvhdbg.model import Registers, Segment, Snapshot, Unavailable
    from pvhdbg.report.document import Report
    from pvhdbg.rules.catalogue import RULES, judge
    from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
    from pvhdbg.spec.revisions import REVISIONS, Revision
    from pvhdbg.version import VERSION
    from pvhdbg.version import VERSION as __version__

# Each name's module, and what it is called there.
_HOME = {
    "BootState": "decode.boot_state:BootState",
    "Guest": "booted:Guest",
    "Handoff": "booted:Handoff",
    "Outcome": "rules.declare:Outcome",
    "Plan": "machine.capture:Plan",
    "PvhdbgError": "errors:PvhdbgError",
    "REVISIONS": "spec.revisions:REVISIONS",
    "RULES": "rules.catalogue:RULES",
    "Registers": "model:Registers",
    "Report": "report.document:Report",
    "Revision": "spec.revisions:Revision",
    "Rule": "rules.declare:Rule",
    "Segment": "model:Segment",
    "Severity": "rules.declare:Severity",
    "Snapshot": "model:Snapshot",
    "Unavailable": "model:Unavailable",
    "VERSION": "version:VERSION",
    "__version__": "version:VERSION",
    "Verdict": "rules.declare:Verdict",
    "Violation": "rules.declare:Violation",
    "capture_entry": "machine.capture:capture",
    "check": "api:check",
    "connect": "booted:connect",
    "decode_snapshot": "decode.boot_state:decode",
    "diff": "api:diff",
    "judge": "rules.catalogue:judge",
    "launch": "booted:launch",
    "load": "booted:load",
    "open_kernel": "kernel.image:open_kernel",
    "save": "booted:save",
    "trace": "api:trace",
    "wait": "api:wait",
    "why": "api:why",
}

__all__ = [
    "REVISIONS",
    "RULES",
    "VERSION",
    "BootState",
    "Guest",
    "Handoff",
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
    "__version__",
    "capture_entry",
    "check",
    "connect",
    "decode_snapshot",
    "diff",
    "judge",
    "launch",
    "load",
    "open_kernel",
    "save",
    "trace",
    "wait",
    "why",
]


if not TYPE_CHECKING:  # with it, a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, own = _HOME[name].partition(":")
        return getattr(import_module(f"pvhdbg.{module}"), own)
