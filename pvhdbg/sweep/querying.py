"""Somebody's SQL on a file of sweeps: it reads, for a bounded time, and gives a bounded number of rows."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.sweep.store import SweepStore

SECONDS = 30.0
_STEPS = 10_000  # of SQLite's machine, between two looks at the clock
_LONGEST = 10_000  # characters of a value
MOST_ROWS = 1_000_000

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})


@dataclass(frozen=True)
class QueryRows:
    """The rows with the names of their columns; each value is safe text, NULL is None. `more` says that there were more."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    more: bool


def asked(store: SweepStore, sql: str, most: int) -> QueryRows:
    """The answer to one SELECT. Raises BadInput for anything else, and for what takes too long."""
    if not 1 <= most <= MOST_ROWS:
        raise BadInput(f"--most {most} is not a number of rows", f"give 1 to {MOST_ROWS}")
    db, deadline = store.connection, time.monotonic() + SECONDS
    db.execute("PRAGMA query_only = ON")
    db.set_authorizer(_allowed)
    db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        cursor = db.execute(sql)
        if cursor.description is None:
            raise BadInput("this is not a SELECT", "ask for something: select * from cells")
        found = cursor.fetchmany(most + 1)
        columns = tuple(printable(str(one[0])) for one in cursor.description)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        if time.monotonic() > deadline:
            raise BadInput(f"the query takes longer than {SECONDS:g} s", "ask for less") from error
        raise BadInput(f"the query cannot be answered: {printable(str(error))}", "see docs/sweeps.md for the tables") from error
    finally:
        db.set_authorizer(None)
        db.set_progress_handler(None, 0)
    return QueryRows(columns, tuple(tuple(map(_text, row)) for row in found[:most]), len(found) > most)


def _allowed(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
    harmless = action in _READS or (
        action == sqlite3.SQLITE_FUNCTION and second not in ("load_extension", "randomblob", "zeroblob")
    )
    return sqlite3.SQLITE_OK if harmless else sqlite3.SQLITE_DENY


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value[: _LONGEST // 2].hex() if isinstance(value, bytes) else printable(str(value)[:_LONGEST])
