"""All answers by name: the answer NAME has the schema pvhdbg/NAME/1, in report/schemas/NAME-1.json."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pvhdbg.report.answers.boots import (
    BootAnswer,
    BootBlocksAnswer,
    BootCoverageAnswer,
    BootDiffAnswer,
    BootFunctionsAnswer,
    BootProfileAnswer,
)
from pvhdbg.report.answers.cpu import GdtAnswer, IdtAnswer, ModeAnswer, SegmentsAnswer, TssAnswer
from pvhdbg.report.answers.handoff import AcpiTablesAnswer, CommandLineAnswer, MemoryMapAnswer, ModulesAnswer
from pvhdbg.report.answers.memory import (
    DisassemblyAnswer,
    EntryAnswer,
    LogAnswer,
    MemoryAnswer,
    NotesAnswer,
    PageRangesAnswer,
    PageWalkAnswer,
    SymbolsAnswer,
)
from pvhdbg.report.answers.prompt import BreakpointsAnswer, ContextAnswer, DisplaysAnswer
from pvhdbg.report.answers.stress import MutationsAnswer, StressAnswer
from pvhdbg.report.answers.sweep import SweepDiffAnswer, SweepMadeAnswer, SweepQueryAnswer, SweepReportAnswer
from pvhdbg.report.answers.tool import ConfigAnswer, DoctorAnswer, ProbeListAnswer, ProbeTableAnswer, SchemasAnswer
from pvhdbg.report.answers.traces import TimelineAnswer, TracedAnswer, TraceDiffAnswer, TraceQueryAnswer

ANSWERS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "segments": SegmentsAnswer,
        "mode": ModeAnswer,
        "gdt": GdtAnswer,
        "idt": IdtAnswer,
        "tss": TssAnswer,
        "modules": ModulesAnswer,
        "memmap": MemoryMapAnswer,
        "cmdline": CommandLineAnswer,
        "rsdp": AcpiTablesAnswer,
        "entry": EntryAnswer,
        "pagewalk": PageWalkAnswer,
        "dmesg": LogAnswer,
        "pagemap": PageRangesAnswer,
        "memory": MemoryAnswer,
        "disas": DisassemblyAnswer,
        "symbols": SymbolsAnswer,
        "notes": NotesAnswer,
        "breakpoints": BreakpointsAnswer,
        "context": ContextAnswer,
        "displays": DisplaysAnswer,
        "traced": TracedAnswer,
        "trace-query": TraceQueryAnswer,
        "trace-diff": TraceDiffAnswer,
        "timeline": TimelineAnswer,
        "boot-recorded": BootAnswer,
        "boot-show": BootFunctionsAnswer,
        "boot-profile": BootProfileAnswer,
        "boot-coverage": BootCoverageAnswer,
        "boot-blocks": BootBlocksAnswer,
        "boot-diff": BootDiffAnswer,
        "doctor": DoctorAnswer,
        "probe-list": ProbeListAnswer,
        "probe-table": ProbeTableAnswer,
        "config": ConfigAnswer,
        "schemas": SchemasAnswer,
        "stress": StressAnswer,
        "mutations": MutationsAnswer,
        "sweep": SweepMadeAnswer,
        "sweep-report": SweepReportAnswer,
        "sweep-diff": SweepDiffAnswer,
        "sweep-query": SweepQueryAnswer,
    }
)
