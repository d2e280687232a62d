"""The frame of an HTML page: no script, no network access, light or dark by the reader's setting.

All text from outside goes through `markup`. A content security policy in the file forbids everything that could still run
or load; it allows the one style sheet by its hash.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

from pvhdbg.report.html_style import STYLE
from pvhdbg.report.markup import Markup, tag


def page(title: str, body: Markup) -> str:
    """The whole file; `title` may be text from outside."""
    return f"<!DOCTYPE html>\n{tag('html', _head(title), tag('body', body), lang='en')}\n"


def _head(title: str) -> Markup:
    allowed = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
