"""What is written in each format when a command fails: so that no report of an earlier run is taken for this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pvhdbg.commands.declare import Command, options_of
from pvhdbg.commands.formats import JUDGED, LISTS, rendered
from pvhdbg.commands.handoff import CheckOptions, answer
from pvhdbg.commands.judging import not_observed
from pvhdbg.errors import PvhdbgError
from pvhdbg.report import listing
from pvhdbg.report.style import PLAIN


def of_error(command: Command, values: Mapping[str, Any], error: PvhdbgError) -> Callable[[str], str | None]:
    """A function of a format that tells in it what could not be judged; None for a format that has nothing to show."""
    subject = str(values.get("subject") or values.get("file") or "")

    def told(format: str) -> str | None:
        if format == "summary":
            return rendered("pvhdbg.report.markdown:render_error", error)
        if format in LISTS:
            return rendered(LISTS[format], listing.of_error(subject, error))
        if command.formats != JUDGED:
            return None
        # The file's verdicts, and why nothing was seen of the machine.
        options = options_of(CheckOptions, values)
        return answer(not_observed(options.about, options.judge, error), options.about).render(format, PLAIN)

    return told
