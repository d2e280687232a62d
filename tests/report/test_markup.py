"""Markup is well formed whatever is put into it, and says what was put in; lxml reads it back."""

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from pvhdbg.report.markup import Markup, join, tag, text


def shown(foreign: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else "·" for letter in foreign)


@given(st.text())
def test_text_and_attributes_come_back(foreign: str) -> None:
    element = etree.fromstring(tag("a", foreign, title=foreign).encode())
    visible = "".join(letter for letter in shown(foreign) if letter != "·")
    for read in (element.text or "", element.get("title")):
        # An XML parser makes spaces of an attribute's newlines; what cannot be shown has become an escape.
        flat = visible.replace("\n", " ")
        letters = iter(read.replace("\n", " "))
        assert all(letter in letters for letter in flat)
    assert len(element) == 0


def test_markup_is_not_escaped_twice_and_text_always_is() -> None:
    assert tag("p", tag("b", "<"), "<", None, Markup("<br/>")) == "<p><b>&lt;</b>&lt;<br/></p>"
    assert join("&", Markup("&amp;")) == "&amp;&amp;"
    assert text("\0\x1b\ud800\u202e\n") == "\\x00\\x1b\\ud800\\u202e\n"


def test_attributes_have_the_names_of_the_format() -> None:
    assert tag("meta", http_equiv="x", class_="y", left=None, viewBox=1) == '<meta http-equiv="x" class="y" viewBox="1"/>'
