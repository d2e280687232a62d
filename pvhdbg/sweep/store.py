"""The file of a sweep: SQLite, one file, several runs. Nothing in it is believed: another schema, type or value is refused in words."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from types import NoneType
from typing import Any
from urllib.parse import quote

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.report.document import Passed
from pvhdbg.sweep.axes import AXES
from pvhdbg.sweep.cell import ID_BYTES, SweepCell
from pvhdbg.sweep.result import CellOutcome, CellResult, CellVerdict, Packed, unpacked, verdicts_in
from pvhdbg.sweep.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES

MAGIC = b"SQLite format 3\0"
PATIENCE = 10.0  # seconds for another process that writes
_FIELDS = tuple(one.field for one in AXES)
_BATCH = 500  # rows
_KEPT = 4096  # sets of verdicts and blobs whose ids are remembered: more are looked up in the file
_OTHER = "give a file that pvhdbg sweep has written, or a new one"

Kinds = tuple[type | tuple[type, ...], ...]
_OR_TEXT, _OR_NUMBER, _OR_BYTES = (str, NoneType), (int, NoneType), (bytes, NoneType)  # or NULL


@dataclass(frozen=True)
class SweepFile:
    """A file that cells name, as it was when the run began."""

    name: str
    path: str
    sha256: bytes
    size: int


@dataclass(frozen=True)
class FoundQemu:
    """A QEMU of the plan. `version` and `sha256` are None where the program is not on this computer."""

    name: str
    version: str | None
    sha256: bytes | None


@dataclass(frozen=True)
class SweepRun:
    """A run of a plan. `done` is the number of its cells that have a result."""

    id: int
    began: str
    ended: str | None
    pvhdbg: str
    host: str
    plan: str
    cells: int
    done: int = 0


@dataclass(frozen=True)
class KeptResult:
    """A cell's result as it is in the file. `verdicts` is the number of its set of verdicts, None where nothing was judged."""

    key: bytes
    cell: SweepCell
    outcome: CellOutcome
    exit_code: int
    seconds: float
    vmm: str
    version: str
    firmware: str
    protocol: str
    conclusion: str
    next: str
    place: str
    verdicts: int | None

    @property
    def short(self) -> str:
        """The beginning of its identity, for people."""
        return self.key.hex()[:12]


def unreadable(path: str, why: object) -> BadInput:
    """The error for a file that is damaged, or not what it seems."""
    return BadInput(f"{printable(path)} cannot be used: {printable(str(why))}", _OTHER)


class SweepStore:
    """An open file. Made by `opened` and `created`."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self._sets: dict[bytes, int] = {}
        self._blobs: dict[bytes, int] = {}

    # --- runs -----------------------------------------------------------------------------------------------------

    def begin(self, plan: str, cells: int, version: str, host: str, files: Iterable[SweepFile], qemus: Iterable[FoundQemu]) -> int:
        """A new run; returns its number."""
        with self.asked() as db:
            cursor = db.execute(
                "INSERT INTO run (began, pvhdbg, host, plan, cells) VALUES (?, ?, ?, ?, ?)", (now(), version, host, plan, cells)
            )
            run = cursor.lastrowid
            assert run is not None
            db.executemany(
                "INSERT INTO file VALUES (?, ?, ?, ?, ?)", [(run, one.name, one.path, one.sha256, one.size) for one in files]
            )
            db.executemany("INSERT INTO qemu VALUES (?, ?, ?, ?)", [(run, one.name, one.version, one.sha256) for one in qemus])
            db.commit()
        return run

    def end(self, run: int) -> None:
        """The run is complete."""
        with self.asked() as db:
            db.execute("UPDATE run SET ended = ? WHERE id = ?", (now(), run))
            db.commit()

    def runs(self) -> list[SweepRun]:
        """All runs, the first one first."""
        found = self._rows(
            "SELECT id, began, ended, pvhdbg, host, plan, cells, (SELECT count(*) FROM result WHERE result.run = run.id) "
            "FROM run ORDER BY id",
            (int, str, _OR_TEXT, str, str, str, int, int),
        )
        return [SweepRun(*one) for one in found]

    def run(self, wanted: str) -> SweepRun:
        """The run of that number, or with "last" the last one; "-1" is also the last, "-2" the one before. Raises BadInput."""
        runs = self.runs()
        if not runs:
            raise BadInput(f"{self.path} holds no run", "make one with: pvhdbg sweep PLAN")
        try:
            number = -1 if wanted == "last" else int(wanted)
        except ValueError:
            raise BadInput(f"{printable(wanted)} is not a run", "give a number, or last") from None
        if number < 0 and -number <= len(runs):
            return runs[number]
        found = next((one for one in runs if one.id == number), None)
        if found is None:
            raise BadInput(f"{self.path} has no run {number}", f"it has {', '.join(str(one.id) for one in runs[-20:])}")
        return found

    def files(self, run: int) -> list[SweepFile]:
        """The files of a run."""
        query = "SELECT name, path, sha256, size FROM file WHERE run = ? ORDER BY name"
        return [SweepFile(*one) for one in self._rows(query, (str, str, bytes, int), (run,))]

    def qemus(self, run: int) -> list[FoundQemu]:
        """The QEMUs of a run."""
        query = "SELECT name, version, sha256 FROM qemu WHERE run = ? ORDER BY name"
        return [FoundQemu(*one) for one in self._rows(query, (str, _OR_TEXT, _OR_BYTES), (run,))]

    # --- results: written -----------------------------------------------------------------------------------------

    def done(self, run: int, cells: Sequence[SweepCell]) -> set[bytes]:
        """The keys of those of some cells that have a result in the run."""
        places = ",".join("?" * len(cells))
        rows = self._rows(
            f"SELECT cell.key FROM cell JOIN result ON result.cell = cell.id WHERE result.run = ? AND cell.key IN ({places})",  # noqa: S608 - only question marks
            (bytes,),
            (run, *(one.id for one in cells)),
        )
        return {key for (key,) in rows}

    def add(self, run: int, cell: SweepCell, result: CellResult) -> bool:
        """Keep a result, in the transaction that is open; False where the cell has one in this run: it stays as it is."""
        with self.asked() as db:
            number = self._cell(db, cell)
            verdicts = None if result.verdicts is None else self._set(db, result.verdicts)
            values = (
                run, number, result.outcome.value, result.exit_code, result.seconds, result.vmm, result.version, result.firmware,
                result.protocol, result.conclusion, result.next, result.place, verdicts,
            )  # fmt: skip
            added = db.execute(f"INSERT OR IGNORE INTO result VALUES ({','.join('?' * len(values))})", values)  # noqa: S608
            if not added.rowcount:
                return False
            for position, one in enumerate(result.milestones):
                db.execute(
                    "INSERT INTO milestone VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (run, number, position, one.name, one.seconds, one.missed, one.instructions),
                )
            for format, report in result.reports.items():
                db.execute("INSERT INTO report VALUES (?, ?, ?, ?)", (run, number, format, self._blob(db, report)))
        return True

    def commit(self) -> None:
        """Everything that was added is in the file from now on."""
        with self.asked() as db:
            db.commit()

    def _cell(self, db: sqlite3.Connection, cell: SweepCell) -> int:
        found = db.execute("SELECT id FROM cell WHERE key = ?", (cell.id,)).fetchone()
        if found is not None:
            return int(found[0])
        values = (cell.id, *(getattr(cell, name) for name in _FIELDS))
        made = db.execute(f"INSERT INTO cell (key, {', '.join(_FIELDS)}) VALUES ({','.join('?' * len(values))})", values)  # noqa: S608 - names of ours
        assert made.lastrowid is not None
        return made.lastrowid

    def _set(self, db: sqlite3.Connection, packed: Packed) -> int:
        if (known := self._sets.get(packed.key)) is not None:
            return known
        found = db.execute("SELECT id FROM verdict_set WHERE sha256 = ?", (packed.key,)).fetchone()
        if found is None:
            number = db.execute("INSERT INTO verdict_set (sha256) VALUES (?)", (packed.key,)).lastrowid
            rows = [(number, position, *_verdict_row(one)) for position, one in enumerate(verdicts_in(packed.text()))]
            db.executemany("INSERT INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        else:
            number = int(found[0])
        assert number is not None
        return _remember(self._sets, packed.key, number)

    def _blob(self, db: sqlite3.Connection, packed: Packed) -> int:
        if (known := self._blobs.get(packed.key)) is not None:
            return known
        found = db.execute("SELECT id FROM blob WHERE sha256 = ?", (packed.key,)).fetchone()
        number = (
            db.execute("INSERT INTO blob (sha256, size, data) VALUES (?, ?, ?)", (packed.key, packed.size, packed.data)).lastrowid
            if found is None
            else int(found[0])
        )
        assert number is not None
        return _remember(self._blobs, packed.key, number)

    # --- results: read --------------------------------------------------------------------------------------------

    def results(self, run: int) -> Iterator[KeptResult]:
        """The results of a run, in the order of the plan's axes, one at a time."""
        names = ", ".join(f"cell.{name}" for name in _FIELDS)
        rows = self._stream(
            "SELECT outcome, exit_code, seconds, vmm, version, result.firmware, protocol, conclusion, next, place, verdicts, key, "  # noqa: S608 - names of ours
            f"{names} FROM result JOIN cell ON cell.id = result.cell WHERE run = ? ORDER BY {names}",
            (str, int, float, str, str, str, str, str, str, str, _OR_NUMBER, bytes, *(int if one.numbers else str for one in AXES)),
            (run,),
        )
        for outcome, exit_code, seconds, vmm, version, firmware, protocol, conclusion, todo, place, verdicts, key, *values in rows:
            with self.asked():
                cell = SweepCell(**dict(zip(_FIELDS, values, strict=True)))
                if len(key) != ID_BYTES or cell.id != key:
                    raise ValueError("a cell is not what its identity says")
                kept = KeptResult(
                    key,
                    cell,
                    CellOutcome(outcome),
                    exit_code,
                    seconds,
                    printable(vmm),
                    printable(version),
                    printable(firmware),
                    printable(protocol),
                    printable(conclusion),
                    printable(todo),
                    printable(place),
                    verdicts,
                )
            yield kept

    @staticmethod
    def order(cell: SweepCell) -> tuple[bytes | int, ...]:
        """What SQLite sorts results by: texts by their bytes."""
        values = (getattr(cell, name) for name in _FIELDS)
        return tuple(value if isinstance(value, int) else str(value).encode() for value in values)

    def verdicts(self, number: int) -> tuple[CellVerdict, ...]:
        """A set of verdicts."""
        rows = self._rows(
            "SELECT rule, title, severity, outcome, deviation, reason, found, about_file FROM verdict WHERE verdicts = ? "
            "ORDER BY position",
            (str, str, str, str, str, str, str, int),
            (number,),
        )
        with self.asked():
            return tuple(
                CellVerdict.from_row([rule, title, severity, outcome, deviation, reason, json.loads(found), about_file])
                for rule, title, severity, outcome, deviation, reason, found, about_file in rows
            )

    def milestones(self, run: int, key: bytes) -> tuple[Passed, ...]:
        """The milestones of a cell."""
        rows = self._rows(
            "SELECT name, seconds, missed, instructions FROM milestone JOIN cell ON cell.id = milestone.cell "
            "WHERE run = ? AND key = ? ORDER BY position",
            (str, float, str, _OR_NUMBER),
            (run, key),
        )
        return tuple(Passed(printable(name), seconds, printable(missed), ran) for name, seconds, missed, ran in rows)

    def reports(self, run: int, format: str) -> Mapping[bytes, int]:
        """The number of each cell's report in a format, by the cell's key; cells with the same report have the same number."""
        sql = "SELECT key, blob FROM report JOIN cell ON cell.id = report.cell WHERE run = ? AND format = ?"
        return dict(self._rows(sql, (bytes, int), (run, format)))

    def blob(self, number: int) -> str:
        """A report."""
        for key, data in self._rows("SELECT sha256, data FROM blob WHERE id = ?", (bytes, bytes), (number,)):
            try:
                return unpacked(data, key)
            except ValueError as error:
                raise unreadable(self.path, f"a report is damaged: {error}") from error
        raise unreadable(self.path, f"report {number} is missing")

    def counts(self, run: int) -> dict[CellOutcome, int]:
        """How many cells of a run have each outcome."""
        rows = self._rows("SELECT outcome, count(*) FROM result WHERE run = ? GROUP BY outcome", (str, int), (run,))
        with self.asked():
            return {CellOutcome(name): number for name, number in rows}

    def mean_seconds(self) -> float | None:
        """How long a cell took on average in the last run; None without one."""
        rows = self._rows("SELECT avg(seconds) FROM result WHERE run = (SELECT max(run) FROM result)", ((float, NoneType),))
        return next((float(one) for (one,) in rows if one is not None), None)

    def _rows(self, sql: str, kinds: Kinds, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, whose values are of these kinds. Raises BadInput for a file in which they are not."""
        with self.asked() as db:
            return _fitting(db.execute(sql, values).fetchall(), kinds)

    def _stream(self, sql: str, kinds: Kinds, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """As `_rows`, some at a time."""
        with self.asked() as db:
            cursor = db.execute(sql, values)
        while True:
            with self.asked():
                some = _fitting(cursor.fetchmany(_BATCH), kinds)
            if not some:
                return
            yield from some

    @contextmanager
    def asked(self) -> Iterator[sqlite3.Connection]:
        """The connection; what SQLite refuses becomes BadInput."""
        try:
            yield self.connection
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from error
        except (ValueError, TypeError, KeyError) as error:  # a value that none of ours is
            raise unreadable(self.path, f"it holds what no sweep writes ({error})") from error


def _fitting(rows: list[tuple[Any, ...]], kinds: Kinds) -> list[tuple[Any, ...]]:
    """The rows. A damaged file has values of any type, whatever its tables declare. Raises ValueError."""
    for row in rows:
        for value, kind in zip(row, kinds, strict=True):
            if not isinstance(value, kind) or (isinstance(value, float) and not isfinite(value)):
                raise ValueError("a value of another type")
    return rows


def _verdict_row(one: CellVerdict) -> tuple[Any, ...]:
    rule, title, severity, outcome, deviation, reason, found, about_file = one.row()
    return rule, title, severity, outcome, deviation, reason, json.dumps(found), int(about_file)


def _remember(known: dict[bytes, int], key: bytes, number: int) -> int:
    if len(known) >= _KEPT:
        known.clear()
    known[key] = number
    return number


def now() -> str:
    """The time, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# --- opening ------------------------------------------------------------------------------------------------------


@contextmanager
def created(path: str) -> Iterator[SweepStore]:
    """The file to write to; it is made where there is none. Raises BadInput for one that is not ours."""
    fresh = not os.path.exists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0)
    if not fresh:
        _refuse_foreign(path)
    with _connected(path, "rwc") as db:
        try:
            if fresh:
                db.execute("PRAGMA journal_mode = WAL")
                with db:
                    for sql in TABLES:
                        db.execute(sql)
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            raise unreadable(path, error) from error
        _refuse_other_schema(path, db)
        yield SweepStore(path, db)


@contextmanager
def opened(path: str) -> Iterator[SweepStore]:
    """The file to read from. Raises BadInput."""
    if not os.path.isfile(path):
        raise BadInput(f"{printable(path)} is not there", "make it with: pvhdbg sweep PLAN -o FILE")
    _refuse_foreign(path)
    with _connected(path, "ro") as db:
        _refuse_other_schema(path, db)
        yield SweepStore(path, db)


@contextmanager
def _connected(path: str, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        db = sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode={mode}", uri=True, timeout=PATIENCE)
    except sqlite3.Error as error:
        raise unreadable(path, error) from error
    try:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "cache_size = -16384"):
            try:
                db.execute(f"PRAGMA {pragma}")
            except (sqlite3.Error, ValueError) as error:  # ValueError: a schema that is not UTF-8
                raise unreadable(path, error) from error
        yield db
    finally:
        db.close()


def _refuse_foreign(path: str) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise BadInput(f"{printable(path)} cannot be read: {error.strerror}", _OTHER) from error
    if head != MAGIC:
        raise BadInput(f"{printable(path)} is not a file of sweeps: it is not SQLite", _OTHER)


def _refuse_other_schema(path: str, db: sqlite3.Connection) -> None:
    """A file with other tables, or with a trigger or a view of somebody else's, is not used."""
    try:
        ((application,),) = db.execute("PRAGMA application_id")
        ((version,),) = db.execute("PRAGMA user_version")
        found = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT 1000")]
    except (sqlite3.Error, ValueError) as error:  # ValueError: text that is not UTF-8
        raise unreadable(path, error) from error
    if application != APPLICATION_ID:
        raise BadInput(f"{printable(path)} is not a file of sweeps: another program has written it", _OTHER)
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{printable(path)} has version {version} of the schema, and this pvhdbg knows {SCHEMA_VERSION}",
            "use the pvhdbg that wrote it, or give a new file",
        )
    if sorted(found) != sorted(TABLES):
        raise BadInput(f"{printable(path)} is not a file of sweeps: its tables are not those of version {version}", _OTHER)
