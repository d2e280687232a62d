"""What the commands do. Each function takes a Request and returns an Answer; nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pvhdbg.commands.formats import of_boot
from pvhdbg.commands.table import Answer, Request
from pvhdbg.errors import BadInput
from pvhdbg.report.json_text import written
from pvhdbg.report.style import Style

if TYPE_CHECKING:
    from pvhdbg.machine.subject import Observed


def check(request: Request) -> Answer:
    """`check`: bring the subject to its entry and judge it."""
    from pvhdbg.machine.subject import observe

    return _judged(request, observe)


def run(request: Request) -> Answer:
    """`run`: as `check`, for a kernel file only."""
    from pvhdbg.machine.subject import run as run_kernel

    return _judged(request, run_kernel)


def attach(request: Request) -> Answer:
    """`attach`: as `check`, for a gdbstub only."""
    from pvhdbg.machine.subject import attach as attach_to

    return _judged(request, attach_to)


def probe(request: Request) -> Answer:
    """`probe`: as `check`, for a log of the guest `probe` only."""
    from pvhdbg.machine.subject import probe as read_probe

    return _judged(request, read_probe)


def _judged(request: Request, observe: Callable[[Request], Observed]) -> Answer:
    if request.select or request.ignore:
        from pvhdbg.rules.catalogue import choose

        choose(request.select or (), request.ignore or ())  # a wrong id is told before a machine is started for nothing
    expectations = None
    if request.expect:
        from pvhdbg.commands import expecting
        from pvhdbg.machine.subject_kind import kind_of

        expectations = expecting.load(str(request.expect))
        request = expecting.request_for(request, expectations)
    if request.seconds is not None and not request.until:
        raise BadInput("--for is how long --until may take", "add --until SYMBOL, or leave it out")
    waited, reached = None, None
    if expectations is not None and expectations.milestones and request.until:
        raise BadInput("--until and [[milestone]] both say where to run", "write the place of --until as the last milestone")
    if expectations is not None and expectations.milestones and kind_of(str(request.subject)) in ("kernel", "stub"):
        observed, reached = expecting.observe(request, expectations)
    elif request.until and request.session is None:
        from pvhdbg.commands import wait as waiting

        observed, waited = waiting.observe(request)
    else:
        observed = _handed_over(request, observe)
    from pvhdbg.commands.judging import report as judged
    from pvhdbg.rules.catalogue import choose

    strict = bool(request.strict or (request.session is not None and request.session.settings.strict))
    report = judged(observed, choose(request.select or (), request.ignore or ()), strict)
    if expectations is not None:
        report = expecting.judged(report, expectations, reached)
    if waited is not None:
        report = waiting.with_goal(report, waited)

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        return text.render(report, style)

    def as_json() -> str:
        from pvhdbg.report import json_report

        return json_report.render(report)

    return Answer(as_text, as_json, report.exit_code, of_boot(report, str(request.kernel or request.subject)))


def _handed_over(request: Request, observe: Callable[[Request], Observed]) -> Observed:
    """The machine at its entry: on the command line brought there, in a live session as it was seen there (else as it is)."""
    session = request.session
    if session is None:
        return observe(request)
    from pvhdbg.machine.subject import Observed

    with session.judging_by(request.spec):
        boot = session.hand_off(bool(request.here))
        return Observed(boot, session.doubts(boot), session.file)


def regs(request: Request) -> Answer:
    """`regs`: registers and hidden segment state; in a live session as they are now, with what changed marked."""
    return _shown(request, "regs", ("vmm", "entry", "registers", "registers_missing", "segments", "a20"))


def info(request: Request) -> Answer:
    """`info`: start_info and what it points to."""
    return _shown(request, "info", ("vmm", "kernel", "entry", "protocol", "start_info", "start_info_missing"))


def _shown(request: Request, kind: str, parts: tuple[str, ...]) -> Answer:
    from pvhdbg.machine.subject import observe

    session = request.session
    boot = _handed_over(request, observe).boot if session is None or kind == "info" else session.boot()
    before = session.before if session is not None else None

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        if kind == "regs":
            return text.render_registers(boot, style, before, bool(request.bits))
        return text.render_info(boot, style)

    def as_json() -> str:
        from pvhdbg.report.json_report import machine

        whole = machine(boot)
        return written({"schema": f"pvhdbg/{kind}/1", **{part: whole[part] for part in parts}})

    return Answer(as_text, as_json)


def extract(request: Request) -> Answer:
    """`extract`: write the ELF inside a compressed kernel."""
    from pvhdbg.kernel.image import extract as extract_elf

    request.progress(f"unpacking {request.image}")
    was = extract_elf(str(request.image), str(request.output))
    return Answer(lambda _: f"{request.output}: the ELF inside {request.image} ({was})\n")


def explain(request: Request) -> Answer:
    """`explain`: one rule."""
    from pvhdbg.rules.catalogue import find

    rule = find(str(request.id))

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        return text.render_rule(rule, style)

    return Answer(as_text, lambda: written({"schema": "pvhdbg/rule/1", **_rule(rule)}))


def rules(request: Request) -> Answer:
    """`rules`: all of them."""
    from pvhdbg.rules.catalogue import CHAPTERS, RULES

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        return text.render_rules(CHAPTERS, style)

    return Answer(as_text, lambda: written({"schema": "pvhdbg/rules/1", "rules": [_rule(rule) for rule in RULES]}))


def _rule(rule: Any) -> dict[str, Any]:
    return {
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity.value,
        "revisions": sorted(rule.revisions),
        "clause": {"document": rule.clause.document.name, "url": rule.clause.document.url, "words": rule.clause.words},
        "why": rule.why,
    }
