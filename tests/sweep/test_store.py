"""The file: what is kept, and what is refused."""

import sqlite3
from pathlib import Path

import pytest

from pvhdbg.commands.declare import Context
from pvhdbg.commands.line import parse
from pvhdbg.errors import BadInput
from pvhdbg.report.document import Passed
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.declare import Outcome
from pvhdbg.sweep.cell import SweepCell
from pvhdbg.sweep.result import CellOutcome, CellResult, CellVerdict, Packed, packed_verdicts
from pvhdbg.sweep.schema import APPLICATION_ID
from pvhdbg.sweep.store import created, opened

CELL = SweepCell("vmlinux", machine="q35")
VERDICTS = (CellVerdict("PVH-CR0", "title", "MUST", Outcome.FAIL, "", "why", (("cr0", "1", "0"),)),)


def result(outcome: CellOutcome = CellOutcome.VIOLATED, verdicts: tuple[CellVerdict, ...] = VERDICTS) -> CellResult:
    return CellResult(
        outcome, "the hand-off violates it", 1, 0.5, "QEMU", "7.2.22", "qboot", "PVH", verdicts=packed_verdicts(verdicts),
        milestones=(Passed("rest_init", 1.5, "", 12345),), reports={"text": Packed.of("a report\n" * 100)},
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file with one run of one cell."""
    path = str(tmp_path / "s.db")
    with created(path) as store:
        run = store.begin("{}", 1, "1.0", "here", [], [])
        assert store.add(run, CELL, result())
        store.end(run)
    return path


def test_what_was_kept_is_read_back(file: str) -> None:
    with opened(file) as store:
        run = store.run("last")
        assert (run.id, run.cells, run.done) == (1, 1, 1)
        (one,) = store.results(run.id)
        assert (one.cell, one.outcome, one.version) == (CELL, CellOutcome.VIOLATED, "7.2.22")
        assert one.verdicts is not None
        assert store.verdicts(one.verdicts) == VERDICTS
        assert store.milestones(run.id, one.key) == (Passed("rest_init", 1.5, "", 12345),)
        assert store.blob(store.reports(run.id, "text")[one.key]) == "a report\n" * 100


def test_a_cell_is_counted_once_and_equal_contents_are_kept_once(file: str) -> None:
    with created(file) as store:
        run = store.begin("{}", 2, "1.0", "here", [], [])
        assert store.add(run, CELL, result())
        assert not store.add(run, CELL, result(CellOutcome.CONFORMS))
        assert store.add(run, SweepCell("vmlinux"), result())
        store.commit()
        for table, number in (("cell", 2), ("blob", 1), ("verdict_set", 1), ("verdict", 1), ("result", 3)):
            assert store.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (number,)
        assert store.done(run, [CELL, SweepCell("other")]) == {CELL.id}


def changed(path: str, sql: str) -> None:
    db = sqlite3.connect(path)
    db.executescript(sql)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("PRAGMA application_id = 1", "another program has written it"),
        ("PRAGMA user_version = 9", "version 9 of the schema"),
        ("CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM result; END", "its tables are not those"),
        ("DROP VIEW cells; CREATE VIEW cells AS SELECT 1", "its tables are not those"),
        ("UPDATE result SET outcome = 'x'", "it holds what no sweep writes"),
        ("UPDATE cell SET machine = 'pc'", "a cell is not what its identity says"),
        ("UPDATE verdict SET found = '['", "it holds what no sweep writes"),
        ("UPDATE verdict SET outcome = ''", "it holds what no sweep writes"),
    ],
)
def test_a_hostile_file_is_refused_in_words(file: str, sql: str, said: str) -> None:
    changed(file, sql)
    for words in (["report"], ["diff", "1", "1"], ["export"]):
        if "verdict" in sql and words == ["diff", "1", "1"]:
            continue  # the same set of verdicts is not read
        with pytest.raises(BadInput) as refused:
            answered("sweep", *words, "--db", file)
        assert said in refused.value.what


def answered(*words: str) -> str:
    """A command's answer as JSON; as text where it has no JSON."""
    command, values = parse([*words])
    answer = command(values, Context())
    return answer.json() if answer.json is not None else answer.text(PLAIN)


def test_a_damaged_report_is_refused(file: str) -> None:
    for data in ("zeroblob(10)", "x'789c'", "zeroblob(0)"):
        changed(file, f"UPDATE blob SET data = {data}")
        with opened(file) as store, pytest.raises(BadInput, match="a report is damaged"):
            store.blob(1)


def test_a_report_that_unpacks_without_end_is_refused(file: str) -> None:
    bomb = Packed.of("\0" * (65 << 20))
    with sqlite3.connect(file) as db:
        db.execute("UPDATE blob SET data = ?, sha256 = ?", (bomb.data, bomb.key))
    db.close()
    with opened(file) as store, pytest.raises(BadInput, match="a report is damaged"):
        store.blob(1)


@pytest.mark.parametrize("content", [b"hello, this is text", b"SQLite format 3\0" + b"\xff" * 4096, b"SQLite format 3\0"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for opening in (opened, created):
        with pytest.raises(BadInput), opening(str(path)):
            pass
    assert path.read_bytes() == content


def test_another_programs_sqlite_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    changed(path, "CREATE TABLE t (a)")
    for opening in (opened, created):
        with pytest.raises(BadInput, match="another program"), opening(path):
            pass
    changed(path, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1")
    with pytest.raises(BadInput, match="its tables are not those"), opened(path):
        pass


def test_a_run_that_there_is_not_is_refused(file: str) -> None:
    with opened(file) as store:
        assert store.run("-1") == store.run("1") == store.run("last")
        for wanted in ("2", "-2", "0", "x"):
            with pytest.raises(BadInput):
                store.run(wanted)


# --- queries ------------------------------------------------------------------------------------------------------


def asked(file: str, sql: str, *words: str) -> str:
    return answered("sweep", "query", sql, "--db", file, *words)


def test_a_query_reads(file: str) -> None:
    assert '"q35"' in asked(file, "select machine, outcome from cells")
    assert '"PVH-CR0"' in asked(file, "select rule from verdicts where outcome = 'fail'")
    assert '"more": true' in asked(file, "select 1 union select 2", "--most", "1")


@pytest.mark.parametrize(
    "sql",
    [
        "delete from run",
        "attach 'x.db' as x",
        "pragma query_only = off",
        "select load_extension('x')",
        "create temp table t (a)",
        "select 1; select 2",
        "vacuum into 'copy.db'",
        "nonsense",
        "",
        "select zeroblob(1000000000)",
    ],
)
def test_a_query_changes_nothing(file: str, sql: str, tmp_path: Path) -> None:
    before = Path(file).read_bytes()
    with pytest.raises(BadInput) as refused:
        asked(file, sql)
    assert refused.value.todo
    assert Path(file).read_bytes() == before
    assert not (tmp_path / "copy.db").exists()


def test_a_query_without_end_ends(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvhdbg.sweep.querying.SECONDS", 0.05)
    with pytest.raises(BadInput, match=r"takes longer than 0\.05 s"):
        asked(file, "with recursive r(n) as (select 1 union all select n + 1 from r) select max(n) from r")
