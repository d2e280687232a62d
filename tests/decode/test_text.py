"""Foreign bytes as text: nothing that steers a terminal comes through, and nothing is lost."""

from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.text import printable, safe, shorten


@given(st.binary() | st.text())
def test_only_printable_characters_come_out(data: bytes | str) -> None:
    assert all(letter.isprintable() for letter in printable(data))


@given(st.binary(), st.binary())
def test_different_bytes_stay_different(one: bytes, other: bytes) -> None:
    assert (printable(one) == printable(other)) == (one == other)


def test_an_escape_sequence_is_shown_not_sent() -> None:
    assert printable(b"\x1b]0;owned\x07") == "\\x1b]0;owned\\x07"
    assert printable("\u202egnp") == "\\u202egnp"


@given(st.text(max_size=300), st.integers(24, 100))
def test_shortening_keeps_within_the_width(text: str, width: int) -> None:
    assert len(shorten(text, width)) <= width + 4


@given(st.binary() | st.text())
def test_messages_are_safe_and_stay_so(data: bytes | str) -> None:
    once = safe(data)
    assert all(letter.isprintable() for letter in once)
    assert safe(once) == once


def test_messages_keep_backslashes_and_letters() -> None:
    assert safe("C:\\ü\x1b") == "C:\\ü\\x1b"
    assert safe("ü".encode()) == "ü"
