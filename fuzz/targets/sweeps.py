"""Files of sweeps, as SQLite has them, and plans: what is shown of a run, its differences, its exports, and an answer to a query."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from itertools import islice

from fuzz.target import Form, Output, Target
from pvhdbg.commands.declare import Context
from pvhdbg.commands.toml_file import toml_document
from pvhdbg.report.document import Passed
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.declare import Outcome
from pvhdbg.sweep import commands
from pvhdbg.sweep.cell import SweepCell
from pvhdbg.sweep.exporting import json_lines, junit
from pvhdbg.sweep.plan import planned
from pvhdbg.sweep.result import CellOutcome, CellResult, CellVerdict, Packed, packed_verdicts
from pvhdbg.sweep.store import FoundQemu, SweepFile, created, opened

_FILE = b"SQLite"


def _run(data: bytes) -> Iterator[Output]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "f")
        with open(path, "wb") as file:
            file.write(data)
        yield from _shown(path) if data.startswith(_FILE) else _planned(path)


def _planned(path: str) -> Iterator[Output]:
    plan = planned(toml_document(path, "a plan", ""), {}, "", "f")
    yield Output(Form.TEXT, plan.sizes())
    yield Output(Form.JSON, plan.document())
    for cell in islice(plan.cells(), 5):
        assert SweepCell.of(cell.content).id == cell.id


def _shown(path: str) -> Iterator[Output]:
    context = Context()
    report = commands.report(commands.SweepReportOptions(path), context)
    yield Output(Form.TEXT, report.text(PLAIN))
    yield Output(Form.JSON, report.render("json", PLAIN))
    yield Output(Form.XML, report.render("html", PLAIN).partition("\n")[2])
    difference = commands.diff(commands.SweepDiffOptions("-2", "-1", path), context)
    yield Output(Form.TEXT, difference.text(PLAIN))
    yield Output(Form.JSON, difference.render("json", PLAIN))
    yield Output(
        Form.TEXT, commands.query(commands.SweepQueryOptions("select * from verdicts, cells", path, 20), context).text(PLAIN)
    )
    with opened(path) as store:
        run = store.run("last")
        yield Output(Form.LINES, "".join(json_lines(store, run)))
        yield Output(Form.XML, "".join(junit(store, run)).partition("\n")[2])


def _seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "f")
        _written(path)
        with open(path, "rb") as file:
            yield file.read()
    yield b'kernels = ["a", "b"]\nmachines = ["pc", "q35"]\ncpus = [1, 2]\nmutations = ["", "esp-zero"]\n[[exclude]]\nmachines = "p*"\ncpus = 2\n'
    yield b'kernels = ["a"]\nmemory = ["64M"]\ncells = 5\nstrict = true\ntimeout = 1e3\ncell_memory = "1G"\nselect = ["PVH"]\n'


def _written(path: str) -> None:
    """A file with two runs, in small pages."""
    with created(path) as store:
        for outcome, rule in ((CellOutcome.VIOLATED, Outcome.FAIL), (CellOutcome.CONFORMS, Outcome.PASS)):
            verdict = CellVerdict("PVH-CR0", "title", "MUST", rule, "", "why", (("cr0", "1", "0"),))
            files, qemus = [SweepFile("k", "/k", bytes(32), 1)], [FoundQemu("", "7.2.22", bytes(32))]
            run = store.begin("{}", 2, "0.1", "here", files, qemus)
            for cell in (SweepCell("k", machine="pc", goal="g"), SweepCell("k", machine="q35")):
                store.add(
                    run,
                    cell,
                    CellResult(
                        outcome, "said", 1, 0.5, "QEMU", "7.2", "qboot", "PVH", verdicts=packed_verdicts([verdict]),
                        milestones=(Passed("g", 1.0, "", 5),), reports={"text": Packed.of("a report\n")},
                    ),
                )  # fmt: skip
            store.end(run)
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("PRAGMA page_size = 512")
    db.execute("VACUUM")
    db.close()


TARGET = Target(
    _run, _seeds, (b"conforms", b"violated", b"fail", b"[[only]]\n", b'kernels = ["', b"CREATE TABLE", b"\x1b[2J", b"[" * 300)
)
