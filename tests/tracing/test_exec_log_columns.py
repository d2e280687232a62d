"""Records read by column are those that are read line by line: on logs of any names and numbers, mutated, and cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.errors import ProtocolError
from pvhdbg.tracing import exec_log_columns
from pvhdbg.tracing.exec_log_columns import Columns, by_column, by_line, columns
from pvhdbg.tracing.qemu_log import LogReader

OLD = "Trace %d: 0x7fc63800%04x [0000000000000000/%016x/%08x/ff000201] %s\n"  # QEMU 7.2
NEW = "Trace %d: 0x7f2a5800%04x [00000000/%016x/%08x/ff020200] %s\n"  # QEMU 10
FLAT, LONG = 0xB0, 0xC2B0

addresses = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 15).map(lambda low: 0xFFFFFFFF81000000 + low))
names = st.sampled_from(["", "memset", "start_kernel", "] [/", "abc0", "def1"])
record = st.tuples(
    st.sampled_from([0, 0, 0, 1]), st.integers(0, 0xFFFF), addresses, st.sampled_from([LONG, LONG, LONG, FLAT]), names
)


@st.composite
def logs(draw: st.DrawFn) -> bytes:
    """Whole lines, all of one format; most of one CPU, flags and name, which is what is read by column."""
    rows = draw(st.lists(record, min_size=1, max_size=40))
    if draw(st.booleans()):
        rows = [(0, at, pc, LONG, "") for _, at, pc, _, _ in rows]
    line = draw(st.sampled_from([OLD, NEW]))
    return "".join(line % row for row in rows).encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The same with some bytes replaced, put in or left out; the last line whole."""
    log = bytearray(draw(logs()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(log) - 1))
        log[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"0", b"f", b"F", b"g", b"\n", b" ", b"\xff", b"Trace "])
        )
    return bytes(log).rstrip(b"\n") + b"\n"


def plain(found: Columns) -> list[tuple[int, int]]:
    return list(zip(found.pcs, found.flags, strict=True))


def slowly(text: bytes, cpu: bytes) -> list[tuple[int, int]] | None:
    try:
        return plain(by_line(text, cpu))
    except ProtocolError:
        return None


@given(st.one_of(logs(), mutated()), st.sampled_from([b"0", b"1"]))
def test_by_column_as_by_line(text: bytes, cpu: bytes) -> None:
    quick = by_column(text, cpu)
    assert quick is None or plain(quick) == slowly(text, cpu)


@given(st.one_of(logs(), mutated()))
def test_names_are_cut_off_and_nothing_else(text: bytes) -> None:
    wanted = slowly(text, b"0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exec_log_columns, "_WORTH", 0)
        try:
            assert plain(columns(text, b"0")) == wanted
        except ProtocolError:
            assert wanted is None


def test_what_is_read_by_column() -> None:
    alike = b"".join(OLD.encode() % (0, at, 0xFFFFFFFF81000000 + at, LONG, b"") for at in range(50))
    found = by_column(alike, b"0")
    assert found is not None
    assert plain(found) == [(0xFFFFFFFF81000000 + at, LONG) for at in range(50)]
    assert by_column(alike, b"1") == Columns((), ())
    other = OLD.encode() % (0, 0, 0, LONG, b"")
    assert by_column(alike + other, b"0") is not None
    modes = by_column(alike + OLD.encode() % (0, 0, 5, FLAT, b""), b"0")
    assert modes is not None
    assert plain(modes)[-1] == (5, FLAT)
    for at, byte in ((0, b"t"), (2, b"b"), (4, b"0"), (6, b"2"), (12, b"g"), (40, b"g"), (len(other) - 1, b" ")):
        assert by_column(alike + other[:at] + byte + other[at + 1 :], b"0") is None
    named = b"".join(NEW.encode() % (0, at, at, LONG, b"f" * at) for at in range(50))
    assert by_column(named, b"0") is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exec_log_columns, "by_line", None)  # it is not called
        assert plain(columns(named, b"0")) == [(at, LONG) for at in range(50)]


OTHERS = (
    b"----------------\nIN: memset\n0x00000005:  f3 a5                    rep movsl %ds:(%rsi), %es:(%rdi)\n\n",
    b"Stopped execution of TB chain before 0x7f5b1c036ac0 [0000000000000005] \n",
    b"     0: v=0e e=0002 i=0 cpl=0 IP=0008:00000000001000fe pc=00000000001000fe SP=0010:00000000d0000000 CR2=00000000cffffffc\n",
    b"RAX=0000000000000007 RBX=0000000000000000\nEFER=0000000000000000\n",
    OLD.encode() % (0, 1, 5, LONG, b""),
    OLD.encode() % (1, 1, 5, LONG, b""),
)


@given(st.lists(st.one_of(logs(), mutated(), st.sampled_from(OTHERS)), max_size=8), st.lists(st.integers(0, 4000), max_size=6))
def test_whole_logs_make_the_same_events_and_faults_however_they_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    log = b"".join(pieces)

    def read(ends: list[int], worth: int) -> tuple[list[object], list[object]] | None:
        reader = LogReader(states=False)
        seen: list[object] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exec_log_columns, "_WORTH", worth)
            if worth:
                patch.setattr("pvhdbg.tracing.qemu_log.by_column", lambda *_: None)
            try:
                start = 0
                for end in [*sorted(min(cut, len(log)) for cut in ends), len(log)]:
                    batch = reader.feed(log[start:end])
                    seen += [*batch, *batch.faults]
                    start = end
                last = reader.finish()
            except ProtocolError:
                return None
        seen += [*last, *last.faults]
        return [one for one in seen if isinstance(one, tuple)], [one for one in seen if not isinstance(one, tuple)]

    assert read(cuts, 0) == read(cuts, 1 << 30)
