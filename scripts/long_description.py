"""The README as a package index shows it: there a relative link leads nowhere, so it becomes one to the documentation site, or plain text.

README.md is written for the repository. The site (`BASE_URL` in pvhdbg/version.py) has the pages of docs/ and the pictures of
docs/images; what else the README links to is in the source distribution only. While there is no site, no link is left that is dead.
"""

from __future__ import annotations

import re

_PICTURE = re.compile(r"^!\[[^]]*\]\((?!\w+://)([^)]+)\)\n\n?", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^]]+)\]\((?!\w+://)([^)]+)\)")
_PAGE = re.compile(r"docs/([\w-]+)\.md(#.*)?")


def long_description(readme: str, base_url: str) -> str:
    """The text for the package index. `base_url` ends with a slash, or is empty until a site exists."""

    def picture(found: re.Match[str]) -> str:
        return found[0].replace(found[1], base_url + found[1].removeprefix("docs/images/")) if base_url else ""

    def link(found: re.Match[str]) -> str:
        page = _PAGE.fullmatch(found[2])
        return f"[{found[1]}]({base_url}{page[1]}.html{page[2] or ''})" if base_url and page else found[1]

    return _LINK.sub(link, _PICTURE.sub(picture, readme))
