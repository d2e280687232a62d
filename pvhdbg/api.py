"""The Python face of the commands."""

from __future__ import annotations

from typing import Any

from pvhdbg.report.document import Report


def check(subject: str, **options: Any) -> Report:
    """Bring `subject` (kernel file, gdbstub address, snapshot or probe's log) to its entry and judge it.

    Options are those of `pvhdbg check` by their long names (`machine="q35"`, `append=...`, `spec="v0"`, `strict=True`,
    `timeout=10`, `select=["PVH"]`, `expect="boot.toml"`). Raises PvhdbgError where the command would exit with 2 or 3.
    """
    from pvhdbg.commands.judging import report
    from pvhdbg.commands.table import Request
    from pvhdbg.machine.subject import observe
    from pvhdbg.rules.catalogue import choose

    rules = choose(options.pop("select", ()), options.pop("ignore", ()))
    strict = bool(options.pop("strict", False))
    request = Request({"subject": subject, **options})
    if request.expect is None:
        return report(observe(request), rules, strict)
    from pvhdbg.commands import expecting

    expectations = expecting.load(str(request.expect))
    return expecting.judged(report(observe(expecting.request_for(request, expectations)), rules, strict), expectations)
