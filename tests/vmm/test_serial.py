"""The guest's serial lines as they come: each once, whatever it writes and however it is cut."""

from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvhdbg.vmm.serial import AT_ONCE, LONGEST, SerialLines


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_comes_each_line_is_given_once(tmp_path: Path, data: bytes, cuts: list[int]) -> None:
    path = tmp_path / "serial"
    path.write_bytes(b"")
    lines, found = SerialLines(path), []
    for a, b in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        with open(path, "ab") as file:
            file.write(data[a:b])
        found += lines.read()
    assert len(found) == data.count(b"\n")
    assert all(line.isprintable() for line in [*found, lines.unfinished()])
    if data.isascii():
        whole = [line.rstrip(b"\r").decode() for line in data.split(b"\n")]
        assert [line for line, was in zip([*found, lines.unfinished()], whole, strict=True) if was.isprintable()] == [
            was for was in whole if was.isprintable()
        ]


def test_long_lines_are_cut_and_what_was_there_before_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    path.write_bytes(b"before\nunfinished ")
    lines = SerialLines(path, from_now=True)
    with open(path, "ab") as file:
        file.write(b"end\n" + b"x" * 1_000_000)
    assert lines.read() == ["end"]
    for _ in range(path.stat().st_size // AT_ONCE):
        assert lines.read() == []
    assert lines.unfinished() == "x" * LONGEST
    with open(path, "ab") as file:
        file.write(b"y\nnext\n")
    assert lines.read() == ["x" * LONGEST, "next"]
    assert SerialLines(tmp_path / "none").read() == []
