"""The tables of a file of sweeps, each declared once. A file that has others is not one of ours."""

from __future__ import annotations

from pvhdbg.sweep.axes import AXES

APPLICATION_ID = 0x70766873  # "pvhs"
SCHEMA_VERSION = 1

_AXES = ", ".join(f"{one.field} {'INTEGER' if one.numbers else 'TEXT'} NOT NULL" for one in AXES)
_NAMES = ", ".join(f"cell.{one.field}" for one in AXES)

TABLES: tuple[str, ...] = (
    # What was asked for, and when. `plan` is its JSON, `host` the computer that kept the file.
    "CREATE TABLE run (id INTEGER PRIMARY KEY, began TEXT NOT NULL, ended TEXT, pvhdbg TEXT NOT NULL, host TEXT NOT NULL, "
    "plan TEXT NOT NULL, cells INTEGER NOT NULL) STRICT",
    # The files that the cells name: kernels, initrds, firmwares, expectations.
    "CREATE TABLE file (run INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL, "
    "PRIMARY KEY (run, name)) STRICT, WITHOUT ROWID",
    # The QEMUs that the plan names, as they were where the run began; NULL where the program is not there.
    "CREATE TABLE qemu (run INTEGER NOT NULL, name TEXT NOT NULL, version TEXT, sha256 BLOB, PRIMARY KEY (run, name)) "
    "STRICT, WITHOUT ROWID",
    # A combination, once for all runs. `key` is its identity.
    f"CREATE TABLE cell (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, {_AXES}) STRICT",
    # What came of a cell in a run.
    "CREATE TABLE result (run INTEGER NOT NULL, cell INTEGER NOT NULL, outcome TEXT NOT NULL, exit_code INTEGER NOT NULL, "
    "seconds REAL NOT NULL, vmm TEXT NOT NULL, version TEXT NOT NULL, firmware TEXT NOT NULL, protocol TEXT NOT NULL, "
    "conclusion TEXT NOT NULL, next TEXT NOT NULL, place TEXT NOT NULL, verdicts INTEGER, PRIMARY KEY (run, cell)) "
    "STRICT, WITHOUT ROWID",
    "CREATE TABLE milestone (run INTEGER NOT NULL, cell INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, "
    "seconds REAL NOT NULL, missed TEXT NOT NULL, instructions INTEGER, PRIMARY KEY (run, cell, position)) STRICT, WITHOUT ROWID",
    # Many cells have the same verdicts: each set is kept once, by its content.
    "CREATE TABLE verdict_set (id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE) STRICT",
    "CREATE TABLE verdict (verdicts INTEGER NOT NULL, position INTEGER NOT NULL, rule TEXT NOT NULL, title TEXT NOT NULL, "
    "severity TEXT NOT NULL, outcome TEXT NOT NULL, deviation TEXT NOT NULL, reason TEXT NOT NULL, found TEXT NOT NULL, "
    "about_file INTEGER NOT NULL, PRIMARY KEY (verdicts, position)) STRICT, WITHOUT ROWID",
    # Reports, compressed by zlib, each content once.
    "CREATE TABLE blob (id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, data BLOB NOT NULL) STRICT",
    "CREATE TABLE report (run INTEGER NOT NULL, cell INTEGER NOT NULL, format TEXT NOT NULL, blob INTEGER NOT NULL, "
    "PRIMARY KEY (run, cell, format)) STRICT, WITHOUT ROWID",
    # For queries: a row for each cell of each run, and one for each verdict of it.
    "CREATE VIEW cells AS SELECT result.run AS run, lower(hex(cell.key)) AS cell, "  # noqa: S608 - names of ours
    f"{_NAMES}, result.outcome, result.exit_code, result.seconds, result.vmm, result.version AS vmm_version, "
    "result.firmware AS seen_firmware, result.protocol, result.conclusion, result.next, result.place "
    "FROM result JOIN cell ON cell.id = result.cell",
    f"CREATE VIEW verdicts AS SELECT result.run AS run, lower(hex(cell.key)) AS cell, {_NAMES}, verdict.rule, verdict.severity, "  # noqa: S608 - names of ours
    "verdict.outcome, verdict.deviation, verdict.reason, verdict.found FROM result JOIN cell ON cell.id = result.cell "
    "JOIN verdict ON verdict.verdicts = result.verdicts",
)
