"""pvhdbg: a boot debugger for the Xen PVH (x86/HVM direct boot) ABI. The names below are the public API.

They are imported when they are first used, so that `import pvhdbg` and a short command cost nothing. None of them is the name of a
submodule: importing that would put the module in its place.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing's, which says the same, would be a fifth of `pvhdbg --version`
if TYPE_CHECKING:
    from pvhdbg.api import (
        boot,
        boot_blocks,
        boot_coverage,
        boot_diff,
        boot_profile,
        boot_show,
        boot_timeline,
        check,
        cmdline,
        diff,
        disas,
        dmesg,
        doctor,
        elf,
        entry,
        expect_file,
        explain,
        extract,
        fwcfg,
        gdt,
        goto,
        idt,
        info,
        memmap,
        mode,
        modules,
        notes,
        pagemap,
        pagewalk,
        probe,
        probe_run,
        regs,
        release,
        rsdp,
        segments,
        snapshot_export,
        snapshot_save,
        stress_kernel,
        sweep_boots,
        sweep_diff,
        sweep_export,
        sweep_query,
        symbols,
        timeline,
        trace,
        trace_diff,
        trace_export,
        trace_query,
        trace_save,
        tss,
        wait,
        why,
        xp,
    )
    from pvhdbg.booted import Guest, Handoff, connect, launch, load, save
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.boot_state import decode as decode_snapshot
    from pvhdbg.errors import PvhdbgError
    from pvhdbg.kernel.image import open_kernel
    from pvhdbg.machine.capture import capture as capture_entry
    from pvhdbg.machine.entry_search import Plan
    from pvhdbg.model import Registers, Segment, Snapshot, Unavailable
    from pvhdbg.report.document import Report
    from pvhdbg.rules.catalogue import RULES, judge
    from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
    from pvhdbg.spec.revisions import REVISIONS, Revision
    from pvhdbg.version import VERSION
    from pvhdbg.version import VERSION as __version__

# The modules of the names that are not in `api`, and what a name is called there if it has another name.
_HOME = {
    "BootState": "decode.boot_state",
    "Guest": "booted",
    "Handoff": "booted",
    "Outcome": "rules.declare",
    "Plan": "machine.entry_search",
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
    "__version__": "version:VERSION",
    "capture_entry": "machine.capture:capture",
    "connect": "booted",
    "decode_snapshot": "decode.boot_state:decode",
    "judge": "rules.catalogue",
    "launch": "booted",
    "load": "booted",
    "open_kernel": "kernel.image",
    "save": "booted",
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
    "boot",
    "boot_blocks",
    "boot_coverage",
    "boot_diff",
    "boot_profile",
    "boot_show",
    "boot_timeline",
    "capture_entry",
    "check",
    "cmdline",
    "connect",
    "decode_snapshot",
    "diff",
    "disas",
    "dmesg",
    "doctor",
    "elf",
    "entry",
    "expect_file",
    "explain",
    "extract",
    "fwcfg",
    "gdt",
    "goto",
    "idt",
    "info",
    "judge",
    "launch",
    "load",
    "memmap",
    "mode",
    "modules",
    "notes",
    "open_kernel",
    "pagemap",
    "pagewalk",
    "probe",
    "probe_run",
    "regs",
    "release",
    "rsdp",
    "save",
    "segments",
    "snapshot_export",
    "snapshot_save",
    "stress_kernel",
    "sweep_boots",
    "sweep_diff",
    "sweep_export",
    "sweep_query",
    "symbols",
    "timeline",
    "trace",
    "trace_diff",
    "trace_export",
    "trace_query",
    "trace_save",
    "tss",
    "wait",
    "why",
    "xp",
]


if not TYPE_CHECKING:  # with it, a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, own = _HOME.get(name, "api").partition(":")
        return getattr(import_module(f"pvhdbg.{module}"), own or name)
