"""The output formats of findings by name: the choices of --format and --report.

Importing this module loads the tables only: a renderer is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pvhdbg.record import replace

if TYPE_CHECKING:
    from pvhdbg.report.document import Report
    from pvhdbg.report.kernel_document import FileReport
    from pvhdbg.report.listing import Listing
    from pvhdbg.report.sarif import Location

# Formats that list findings of any kind; they take a Listing.
LISTS: Mapping[str, str] = MappingProxyType(
    {
        "junit": "pvhdbg.report.junit:render",
        "tap": "pvhdbg.report.tap:render",
        "ktap": "pvhdbg.report.tap:render_ktap",
        "github": "pvhdbg.report.github:render",
    }
)
# Formats that show a boot; they take a Report.
_PAGES: Mapping[str, str] = MappingProxyType(
    {
        "summary": "pvhdbg.report.markdown:render_summary",
        "markdown": "pvhdbg.report.markdown:render",
        "html": "pvhdbg.report.html:render",
    }
)
FILE_JUDGED = ("text", "json", "sarif", *LISTS)
JUDGED = (*FILE_JUDGED, *_PAGES)
COMPARED = ("text", "json", "html")
# GitHub gives one summary file to all commands of a step, so we append to it and never replace it.
APPENDED = frozenset({"summary"})


def of_boot(report: Report, subject: str) -> dict[str, Callable[[], str]]:
    """All of JUDGED but text and JSON, each as a function that writes it. `subject` names the file that was booted."""

    def listed(target: str) -> str:
        from pvhdbg.report import listing

        return rendered(target, _on_its_file(listing.of_boot(report), subject))

    def as_sarif() -> str:
        from pvhdbg.report import sarif

        return sarif.render(report, _location_of(subject))  # a gdbstub's address has none

    pages = {name: partial(rendered, target, report) for name, target in _PAGES.items()}
    return {"sarif": as_sarif, **{name: partial(listed, target) for name, target in LISTS.items()}, **pages}


def of_file(report: FileReport) -> dict[str, Callable[[], str]]:
    """All of FILE_JUDGED but text and JSON."""

    def listed(target: str) -> str:
        from pvhdbg.report import listing

        return rendered(target, _on_its_file(listing.of_file(report), report.path))

    def as_sarif() -> str:
        from pvhdbg.report import sarif

        about = sarif.About(report.exit_code, facts={"conclusion": report.conclusion, "strict": report.strict})
        return sarif.rendered(sarif.document(report.verdicts, _location_of(report.path), about))

    return {"sarif": as_sarif, **{name: partial(listed, target) for name, target in LISTS.items()}}


def _location_of(path: str) -> Location | None:
    from pvhdbg.commands.code_location import location_of

    return location_of(path)


def _on_its_file(found: Listing, path: str) -> Listing:
    from urllib.parse import unquote

    location = _location_of(path)
    return found if location is None or location.base is None else replace(found, file=unquote(location.uri))


def rendered(target: str, report: Any) -> str:
    module, function = target.split(":")
    render: Callable[[Any], str] = getattr(import_module(module), function)
    return render(report)
