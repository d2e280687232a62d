"""The commands about a hand-off: judge it (`check`, `run`, `attach`), or show it (`regs`, `info`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.formats import of_boot
from pvhdbg.commands.options import JudgeOptions, PromptOptions, WaitOptions
from pvhdbg.commands.subject_options import AboutSubject
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session
from pvhdbg.machine.subject import Observed, Opened, attach_stub, boot_kernel, observe, open_subject
from pvhdbg.machine.subject_kind import refuse_all_but_kernels, subject_kind
from pvhdbg.record import NamedTuple
from pvhdbg.report.json_text import written
from pvhdbg.report.style import Style

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.report.document import Report

Addition = Callable[["Report"], "Report"]  # adds further verdicts about what was observed after the hand-off


class JudgedOptions(NamedTuple):
    """The options of `run` and `attach`."""

    about: SubjectOptions = SubjectOptions()
    judge: JudgeOptions = JudgeOptions()
    prompt: PromptOptions = PromptOptions()


class CheckOptions(NamedTuple):
    """The options of `check`. `expect` is a file of expectations."""

    about: SubjectOptions = SubjectOptions()
    judge: JudgeOptions = JudgeOptions()
    wait: WaitOptions = WaitOptions()
    expect: str | None = None


class RegsOptions(NamedTuple):
    """The options of `regs`. `bits` shows a line for each bit that is set; `name` are the registers that are wanted, in a session."""

    about: SubjectOptions = SubjectOptions()
    bits: bool = False
    name: tuple[str, ...] = ()


# --- judged -------------------------------------------------------------------------------------------------------


@takes(CheckOptions)
def check(options: CheckOptions, context: Context) -> Answer:
    """`check`: bring the subject to its entry, judge the hand-off, and the run after it where asked."""
    return answer(judged(options, context), options.about)


def judged(options: CheckOptions, context: Context) -> Report:
    """The report of `check`. Raises PvhdbgError."""
    options.judge.refuse_unknown()
    if context.session is not None:
        return _of_session(options, context.session)
    observed, additions = _observed(options, context)
    report = _report(observed, options.judge, options.judge.strict)
    for add in additions:
        report = add(report)
    return report


@takes(JudgedOptions)
def run(options: JudgedOptions, context: Context) -> Answer:
    """`run`: as `check`, for a kernel file only."""
    refuse_all_but_kernels(options.about.subject)
    return brought(options.about, options.judge, boot_kernel(options.about, context.progress))


@takes(JudgedOptions)
def attach(options: JudgedOptions, context: Context) -> Answer:
    """`attach`: as `check`, for a gdbstub only."""
    return brought(options.about, options.judge, attach_stub(options.about, context.progress))


def brought(about: SubjectOptions, judge: JudgeOptions, opening: AbstractContextManager[Opened]) -> Answer:
    """The report on a subject that `opening` brings to its entry. Raises PvhdbgError."""
    judge.refuse_unknown()
    return answer(_report(observe(opening), judge, judge.strict), about)


def _of_session(options: CheckOptions, session: Session) -> Report:
    """The hand-off as the session captured it; else the machine's current state."""
    with session.judging_by(options.about.spec):
        boot = session.hand_off(options.about.way.here)
        observed = Observed(boot, session.doubts(boot), session.file)
        strict = options.judge.strict or session.settings.strict
        return _report(observed, options.judge, strict)


def _observed(options: CheckOptions, context: Context) -> tuple[Observed, list[Addition]]:
    """The machine at its entry, and the outcome of --until where it was given. Raises PvhdbgError."""
    about, wait, progress = options.about, options.wait, context.progress
    if wait.seconds is not None and not wait.until:
        raise BadInput("--for is the time limit of --until, which is missing", "add --until SYMBOL, or leave --for out")
    if options.expect:
        return _expected(options, options.expect, context)
    if wait.until:
        from pvhdbg.commands import wait as waiting

        observed, waited = waiting.run_on(about, wait, progress)
        if waited.end is not None:
            waited.end.refuse_vmm_bug()
        return observed, [lambda report: waiting.with_goal(report, waited)]
    return observe(open_subject(about, progress)), []


def _expected(options: CheckOptions, path: str, context: Context) -> tuple[Observed, list[Addition]]:
    """As `_observed`, with a file of expectations: its [machine], its milestones, and its demands on the hand-off."""
    from pvhdbg.commands import expecting

    wait, expectations = options.wait, expecting.load(path)
    if expectations.milestones and wait.until:
        raise BadInput("--until and [[milestone]] both say where to run", "write the goal of --until as the last milestone")
    about = expecting.with_machine(options.about, expectations, path)
    if not expectations.milestones or not subject_kind(about.subject).runs:
        observed, additions = _observed(CheckOptions(about, options.judge, wait), context)
        return observed, [lambda report: expecting.judged(report, expectations), *additions]
    observed, reached = expecting.run_through(about, expectations, context.progress)
    return observed, [lambda report: expecting.judged(report, expectations, reached)]


def _report(observed: Observed, judge: JudgeOptions, strict: bool) -> Report:
    from pvhdbg.commands import judging

    return judging.report(observed, judge.rules(), strict)


def answer(report: Report, about: SubjectOptions) -> Answer:
    """The report in every format."""

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        return text.render(report, style)

    def as_json() -> str:
        from pvhdbg.report import json_report

        return json_report.render(report)

    return Answer(as_text, as_json, report.exit_code, of_boot(report, about.way.kernel or about.subject), report)


# --- shown --------------------------------------------------------------------------------------------------------

_REGS = ("vmm", "entry", "registers", "registers_missing", "segments", "a20")
_INFO = ("vmm", "kernel", "entry", "protocol", "start_info", "start_info_missing")


@takes(RegsOptions)
def regs(options: RegsOptions, context: Context) -> Answer:
    """`regs`: registers and hidden segment state; in a live session as they are now, with changes marked."""
    session = context.session
    if session is not None and options.name:
        lines = "".join(f"{one}\n" for one in _named(session, options.name))
        return Answer(lambda _: lines)
    boot = observe(open_subject(options.about, context.progress)).boot if session is None else session.boot()
    before = session.before if session is not None else None

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        return text.render_registers(boot, style, before, options.bits)

    return Answer(as_text, lambda: _parts(boot, "regs", _REGS), value=boot.registers)


def _named(session: Session, names: tuple[str, ...]) -> list[str]:
    """A line for each register: its value, and the symbol that it points to where it is the pc or the stack pointer."""
    lines = []
    for word in names:
        name = word.removeprefix("$")
        value = session.address(f"${name}")
        symbol = session.name_of(value) if name in ("rip", "eip", "pc", "rsp", "sp") else None
        lines.append(f"{name:<8} {value:#x}" + (f"  <{printable(symbol)}>" if symbol else ""))
    return lines


@takes(AboutSubject)
def info(options: AboutSubject, context: Context) -> Answer:
    """`info`: start_info and what it points to."""
    session, about = context.session, options.about
    if session is None:
        boot = observe(open_subject(about, context.progress)).boot
    else:
        with session.judging_by(about.spec):
            boot = session.hand_off(about.way.here)

    def as_text(style: Style) -> str:
        from pvhdbg.report import text

        return text.render_info(boot, style)

    return Answer(as_text, lambda: _parts(boot, "info", _INFO), value=boot)


def _parts(boot: BootState, kind: str, parts: tuple[str, ...]) -> str:
    """Some parts of a machine as JSON."""
    from pvhdbg.report.json_report import machine

    whole = machine(boot)
    return written({"schema": f"pvhdbg/{kind}/1", **{part: whole[part] for part in parts}})
