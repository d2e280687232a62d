"""Markdown through a CommonMark parser that is not ours: structure, and nothing foreign that formats."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pvhdbg.errors import PvhdbgError
from pvhdbg.report import markdown
from pvhdbg.report.document import Report
from pvhdbg.report.markdown_text import escaped, fenced
from pvhdbg.rules.catalogue import MACHINE_RULES
from tests.report.reports import HOSTILE, failing, golden, hostile

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LINKS = {rule.clause.document.url for rule in MACHINE_RULES}


def tokens(source: str) -> list[Any]:
    return [inner for token in PARSER.parse(source) for inner in (token, *(token.children or ()))]


def sound(report: Report) -> None:
    for source in (markdown.render(report), markdown.render_summary(report)):
        found = tokens(source)
        assert not [token for token in found if token.type in ("html_inline", "html_block", "image", "code_inline", "s_open")]
        assert {token.attrs["href"] for token in found if token.type == "link_open"} <= LINKS
        rows = [token for token in found if token.type == "tr_open"]
        assert rows
        assert not any("| ---" in token.content for token in found if token.type == "text")  # a table that did not become one


@pytest.mark.slow
def test_every_failing_example_is_sound() -> None:
    for report in failing():
        sound(report)


def test_the_report_says_everything() -> None:
    found = tokens(markdown.render(golden()))
    titles = [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open" and token.tag == "h2"]
    assert titles == ["Findings", "Checks", "Registers", "Segments", "start\\_info", "Serial port"]
    blocks = [token.content for token in found if token.type == "fence"]
    assert any("cr4 00000020  PAE" in block for block in blocks)
    assert any("console=ttyS0 <b>&" in block for block in blocks)
    assert "Kernel panic - not syncing: <no init>" in blocks[-1]
    cells = [token.content for token in found if token.type == "text"]
    assert "QEMU 7.2.22, tcg; firmware: SeaBIOS + pvh.bin" in cells


def test_hostile_text_formats_nothing() -> None:
    sound(hostile())
    assert not [
        token for token in tokens(markdown.render(hostile())) if token.type == "heading_open" and token.tag in ("h4", "h5", "h6")
    ]


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from("-+=#>123.)(*_`[]<>!|~ \n\\&;www:/@ab")))
@example("www.evil.example")
@example("--- - 1. http://evil.example")
def test_escaped_text_is_one_paragraph_of_text(foreign: str) -> None:
    for source in (
        f"x{escaped(foreign)}x",
        escaped(foreign),
        f"above\n{escaped(foreign)}",
        f"| a |\n| --- |\n| {escaped(foreign)} |",
    ):
        found = [token for token in tokens(source) if token.type not in ("inline", "softbreak") and token.tag not in ("p", "tbody")]
        parts = [token for token in found if token.tag not in ("table", "thead", "tr", "th", "td")]
        assert all(token.type in ("text", "text_special") for token in parts)
        if source.startswith("| a") and escaped(foreign):
            assert len([token for token in found if token.type == "td_open"]) == 1


def test_an_error_is_a_heading_and_what_to_do() -> None:
    found = tokens(markdown.render_error(PvhdbgError(HOSTILE, HOSTILE)))
    assert [token.tag for token in found if token.type.endswith("_open")] == ["h1", "p"]
    assert {token.type for token in found} <= {
        "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text", "text_special"
    }  # fmt: skip


def test_what_github_alone_makes_links_of() -> None:
    assert escaped("see www.evil.example, HTTP://evil.example, @me, #1") == (
        "see www\\.evil.example, HTTP\\://evil.example, \\@me, \\#1"
    )


@given(st.lists(st.text(st.sampled_from("`~ab\n\r \0"))))
def test_nothing_closes_a_fence(lines: list[str]) -> None:
    (block,) = PARSER.parse(fenced(lines))
    assert block.type == "fence"
    assert len(block.content.split("\n")) == len(lines) + 1
