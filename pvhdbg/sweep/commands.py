"""`pvhdbg sweep`, and what shows, compares, asks and exports its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.output import open_output
from pvhdbg.commands.toml_file import toml_document
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.report.answers.document import json_of
from pvhdbg.report.answers.sweep import (
    ChangedCellAnswer,
    ChangedRuleAnswer,
    SweepDiffAnswer,
    SweepMadeAnswer,
    SweepQueryAnswer,
    SweepReportAnswer,
)
from pvhdbg.report.findings import VIOLATED, count
from pvhdbg.report.style import Style
from pvhdbg.sweep import matrix_html, matrix_text, running
from pvhdbg.sweep.axes import AXES
from pvhdbg.sweep.cell import CellTask
from pvhdbg.sweep.comparing import RunDifference, difference
from pvhdbg.sweep.exporting import CellAnswers, axes_of, json_lines, junit
from pvhdbg.sweep.local import LocalEngine
from pvhdbg.sweep.matrix import matrix
from pvhdbg.sweep.plan import SweepPlan, planned
from pvhdbg.sweep.querying import asked
from pvhdbg.sweep.result import CellOutcome
from pvhdbg.sweep.running import SweepCounts, SweepEngine
from pvhdbg.sweep.store import FoundQemu, SweepFile, SweepRun, SweepStore, created, opened

_MOST_JOBS = 1024
_LISTED = 200  # changed cells in a text
_FILE = "sweep.db"


class SweepOptions(NamedTuple):
    """The options of `sweep`: the axes by their key, and how it is carried out."""

    plan: str | None = None
    kernels: tuple[str, ...] = ()
    qemus: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    firmwares: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    cpu_models: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    initrds: tuple[str, ...] = ()
    command_lines: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()
    expectations: tuple[str, ...] = ()
    mutations: tuple[str, ...] = ()
    output: str = _FILE
    jobs: int | None = None
    dask: str | None = None
    resume: bool = False
    dry_run: bool = False


class SweepReportOptions(NamedTuple):
    """The options of `sweep report`."""

    db: str = _FILE
    run: str = "last"
    rows: str | None = None
    columns: str | None = None


class SweepDiffOptions(NamedTuple):
    """The options of `sweep diff`: two runs."""

    a: str
    b: str
    db: str = _FILE


class SweepQueryOptions(NamedTuple):
    """The options of `sweep query`."""

    sql: str
    db: str = _FILE
    most: int = 1000


class SweepExportOptions(NamedTuple):
    """The options of `sweep export`."""

    db: str = _FILE
    run: str = "last"
    format_name: str = "jsonl"
    output: str | None = None


# --- sweep --------------------------------------------------------------------------------------------------------


@takes(SweepOptions)
def sweep(options: SweepOptions, context: Context) -> Answer:
    """`sweep`: the exit code is 0 where each cell conforms, 1 where one does not, or could not be observed."""
    plan = plan_of(options)
    jobs = options.jobs if options.jobs is not None else len(os.sched_getaffinity(0))
    if not 1 <= jobs <= _MOST_JOBS:
        raise BadInput(f"--jobs {jobs} is not a number of processes", f"give a number from 1 to {_MOST_JOBS}")
    total = plan.count()
    if options.dry_run:
        return _planned(options, plan, total, jobs)
    with created(options.output) as store:
        files, qemus = running.hashed_files(plan), running.found_qemus(plan)
        if options.dask is None:
            running.refuse_missing(qemus)
        run = running.resumed(store, plan, files, qemus) if options.resume else running.begun(store, plan, total, files, qemus)
        engine = LocalEngine(jobs) if options.dask is None else _cluster(options.dask, files, qemus)
        try:
            with closing(engine):
                counts = _carried_out(options, plan, store, run, running.tasks_of(plan, store, run, files), engine, context)
        except KeyboardInterrupt:
            _said(f"{store.run(str(run.id)).done} of {total} cells are in {options.output}; go on with the same and --resume")
            raise
        outcomes = store.counts(run.id)
        done = counts.before + counts.came
        conclusion = _conclusion(total, outcomes)
        found = SweepMadeAnswer(run.id, options.output, total, done, plan.sizes(), None, _by_name(outcomes), conclusion)
        shown = matrix(lambda: store.results(run.id), None, None)
    text = partial(_made_text, found, lambda style: matrix_text.lines(shown, style))
    return shows(text, found, 0 if running.good(outcomes) else VIOLATED)


def _carried_out(
    options: SweepOptions, plan: SweepPlan, store: SweepStore, run: SweepRun, tasks: Iterator[CellTask], engine: SweepEngine,
    context: Context,
) -> SweepCounts:  # fmt: skip
    """The run; the first line tells how long it takes, if no earlier run does by its first cell, which is booted before."""
    if store.mean_seconds() is None:
        running.carried_out(store, run, islice(tasks, 1), engine, context.progress)
        run = store.run(str(run.id))
    left = _expected_words(store, run.cells - run.done, engine.jobs)
    _said(f"{_words(plan, run.cells)} in run {run.id} of {options.output}{left}")
    return running.carried_out(store, run, tasks, engine, context.progress)


def _cluster(address: str, files: list[SweepFile], qemus: list[FoundQemu]) -> SweepEngine:
    try:
        from pvhdbg.sweep.cluster import DaskEngine
    except ModuleNotFoundError as error:
        raise BadInput("--dask needs the package distributed", "pip install 'pvhdbg[dask]'") from error
    return DaskEngine(address, files, qemus)


def plan_of(options: SweepOptions) -> SweepPlan:
    """The plan in the file, with the options' axes. Raises BadInput."""
    document = {} if options.plan is None else toml_document(options.plan, "a plan", "see docs/sweeps.md for what a plan holds")
    axes = {one.key: getattr(options, one.key) for one in AXES}
    folder = os.path.dirname(options.plan or "")
    if folder:  # what the command line names is relative to the current folder
        for axis in AXES:
            if axis.files and not axis.perhaps:
                axes[axis.key] = tuple(os.path.abspath(one) if one else one for one in axes[axis.key])
    return planned(document, axes, folder, os.path.basename(options.plan) if options.plan else "the command line")


def _planned(options: SweepOptions, plan: SweepPlan, total: int, jobs: int) -> Answer:
    plan.files()
    expected: float | None = None
    if os.path.isfile(options.output):
        with opened(options.output) as store:
            mean = store.mean_seconds()
            expected = None if mean is None else mean * total / jobs
    found = SweepMadeAnswer(None, options.output, total, 0, plan.sizes(), expected, {}, _words(plan, total))
    time_words = "" if expected is None else f"; about {running.duration(expected)} with {count(jobs, 'process')}"
    return shows(lambda _: f"{found.conclusion}{time_words}\n", found)


def _words(plan: SweepPlan, total: int) -> str:
    return count(total, "cell") + (f": {sizes}" if (sizes := plan.sizes()) else "")


def _expected_words(store: SweepStore, left: int, jobs: int) -> str:
    mean = store.mean_seconds()
    return "" if mean is None else f"; about {running.duration(mean * left / jobs)}"


def _said(line: str) -> None:
    """Write a line to standard error at once, before the work begins."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"pvhdbg: sweeping {printable(line)}\n")
            sys.stderr.flush()


def _by_name(outcomes: dict[CellOutcome, int]) -> dict[str, int]:
    return {one.value: outcomes[one] for one in CellOutcome if outcomes.get(one)}


def _conclusion(total: int, outcomes: dict[CellOutcome, int]) -> str:
    said = ", ".join(f"{number} {name}" for name, number in _by_name(outcomes).items())
    missing = total - sum(outcomes.values())
    return f"{count(total, 'cell')}: {said}" + (f", {missing} not booted yet" if missing else "")


def _made_text(found: SweepMadeAnswer, lines: Callable[[Style], list[str]], style: Style) -> str:
    return "\n".join([*lines(style), "", found.conclusion, f"next: pvhdbg sweep report --db {printable(found.file)}", ""])


# --- sweep report -------------------------------------------------------------------------------------------------


@takes(SweepReportOptions)
def report(options: SweepReportOptions, context: Context) -> Answer:
    """`sweep report`: the exit code is that of the sweep."""
    with opened(options.db) as store:
        run = store.run(options.run)
        outcomes = store.counts(run.id)
        conclusion = _conclusion(run.cells, outcomes)
        found = matrix(lambda: store.results(run.id), options.rows, options.columns)
    lines = partial(matrix_text.lines, found)

    def as_text(style: Style) -> str:
        head = f"run {run.id}, begun {printable(run.began)}" + ("" if run.ended else ", not complete")
        return "\n".join([head, *lines(style), "", conclusion, ""])

    def as_html() -> str:
        with opened(options.db) as store:
            return matrix_html.render(store, run, found, conclusion)

    def as_json() -> str:
        with opened(options.db) as store:
            return json_of(_document(store, run, outcomes))

    return Answer(as_text, as_json, 0 if running.good(outcomes) else VIOLATED, {"html": as_html})


def _document(store: SweepStore, run: SweepRun, outcomes: dict[CellOutcome, int]) -> SweepReportAnswer:
    answers = CellAnswers(store, run)
    return SweepReportAnswer(
        run.id,
        run.began,
        run.ended,
        run.cells,
        _by_name(outcomes),
        {printable(one.name): one.sha256.hex() for one in store.files(run.id)},
        {printable(one.name): one.version for one in store.qemus(run.id)},
        tuple(answers.of(one) for one in store.results(run.id)),
    )


# --- sweep diff ---------------------------------------------------------------------------------------------------


@takes(SweepDiffOptions)
def diff(options: SweepDiffOptions, context: Context) -> Answer:
    """`sweep diff`: the exit code is 1 where a cell changed, or is in one of the runs only."""
    with opened(options.db) as store:
        found = difference(store, store.run(options.a), store.run(options.b))
    changed = len(found.changed) + found.more
    conclusion = f"{changed} of {count(found.compared, 'cell')} changed from run {found.a.id} to run {found.b.id}"
    for run, number in ((found.a, found.only_a), (found.b, found.only_b)):
        conclusion += f"; {count(number, 'cell')} only in run {run.id}" if number else ""

    def as_text(style: Style) -> str:
        lines = [style("warn", f"note: {one}") for one in found.about]
        for one in found.changed[:_LISTED]:
            axes = " ".join(f"{name}={value}" for name, value in axes_of(one.after).items())
            lines.append(f"{axes}: {one.before.outcome.value} -> {one.after.outcome.value}")
            lines += [f"    {rule.rule}: {rule.before or 'not judged'} -> {rule.after or 'not judged'}" for rule in one.rules]
            if not one.rules:
                lines.append(f"    {one.after.conclusion}")
        if changed > _LISTED:
            lines.append(f"and {changed - _LISTED} more; all of them: --format json")
        return "\n".join([*lines, conclusion, ""])

    return shows(as_text, _difference(found, conclusion), VIOLATED if found.differ else 0)


def _difference(found: RunDifference, conclusion: str) -> SweepDiffAnswer:
    changed = tuple(
        ChangedCellAnswer(
            one.after.key.hex(),
            axes_of(one.after),
            one.before.outcome.value,
            one.after.outcome.value,
            tuple(ChangedRuleAnswer(rule.rule, rule.before or None, rule.after or None) for rule in one.rules),
        )
        for one in found.changed
    )
    return SweepDiffAnswer(found.a.id, found.b.id, found.compared, found.only_a, found.only_b, found.about, changed, conclusion)


# --- sweep query, sweep export ------------------------------------------------------------------------------------


@takes(SweepQueryOptions)
def query(options: SweepQueryOptions, context: Context) -> Answer:
    """`sweep query`: the rows as a table."""
    with opened(options.db) as store:
        found = asked(store, options.sql, options.most)

    def as_text(style: Style) -> str:
        rows = [found.columns, *(tuple("" if one is None else one for one in row) for row in found.rows)]
        widths = [max(len(row[index]) for row in rows) for index in range(len(found.columns))]
        lines = ["  ".join(f"{one:<{width}}" for one, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines[0] = style("head", lines[0])
        return "\n".join([*lines, *([f"only the first {options.most} rows: see --most"] if found.more else []), ""])

    return shows(as_text, SweepQueryAnswer(found.columns, found.rows, found.more))


@takes(SweepExportOptions)
def export(options: SweepExportOptions, context: Context) -> Answer:
    """`sweep export`: a run in another form, a piece at a time."""
    with opened(options.db) as store:
        run = store.run(options.run)
        with open_output(options.output) as output:
            for piece in (junit if options.format_name == "junit" else json_lines)(store, run):
                output.put(piece)
            output.put("", flush=True)
    if options.output in (None, "-"):
        return Answer(lambda _: "")
    return Answer(lambda _: f"{printable(str(options.output))}: {count(run.done, 'cell')}\n")
