"""From what was observed to a report: which rules are asked, and of what."""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.errors import BadInput
from pvhdbg.machine.subject import Observed
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Rule
from pvhdbg.rules.files import judge_file


def report(observed: Observed, rules: Iterable[Rule], strict: bool = False) -> Report:
    """The kernel file is judged first, as it comes first. Raises BadInput when nothing that was observed has such rules."""
    rules = tuple(rules)
    about_file = () if observed.file is None else judge_file(observed.file, rules, observed.boot.revision)
    verdicts = (*about_file, *judge(observed.boot, rules))
    if not verdicts:
        raise BadInput("the chosen rules judge a kernel file, and none was seen", "name it with --kernel")
    return Report(observed.boot, verdicts, strict, observed.warnings, observed.serial)
