"""What `diff` does: bring two subjects to their entry, one after the other, and compare them."""

from __future__ import annotations

from typing import cast

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.judging import report
from pvhdbg.commands.options import JudgeOptions
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions, given, without
from pvhdbg.machine.session import Session
from pvhdbg.machine.subject import Observed, observe, open_subject
from pvhdbg.machine.subject_kind import refused
from pvhdbg.record import NamedTuple
from pvhdbg.report import diff_text
from pvhdbg.report.diff import Comparison, compare
from pvhdbg.report.style import Style
from pvhdbg.spec.revisions import SpecName
from pvhdbg.targets.run import Progress


class DiffOptions(NamedTuple):
    """The options of `diff`; those of `about` go to the sides that take them."""

    a: str
    b: str | None = None  # None in a session, whose machine is then the first side
    about: SubjectOptions = SubjectOptions()
    judge: JudgeOptions = JudgeOptions()


@takes(DiffOptions)
def diff(options: DiffOptions, context: Context) -> Answer:
    """`diff`: exit code 0 when both are the same where it matters, else 1. Raises PvhdbgError."""
    comparison = compared(options, context)

    def as_text(style: Style) -> str:
        return diff_text.render(comparison, style)

    def as_json() -> str:
        return diff_text.render_json(comparison)

    def as_html() -> str:
        from pvhdbg.report import diff_html

        return diff_html.render(comparison)

    return Answer(as_text, as_json, comparison.exit_code, {"html": as_html}, comparison)


def compared(options: DiffOptions, context: Context) -> Comparison:
    """Both sides, judged and compared. Raises PvhdbgError."""
    rules, strict = options.judge.rules(), options.judge.strict  # report a wrong id before a machine is started for nothing
    if options.b is None:
        assert context.session is not None
        return _with_session(options, context.session, context.progress)
    sides = (options.a, options.b)
    one, two = (report(observe(open_subject(side, context.progress)), rules, strict) for side in _sides(options, sides))
    return compare(sides, one, two, strict)


def _with_session(options: DiffOptions, session: Session, progress: Progress) -> Comparison:
    """What the session's machine was handed, and then the other side."""
    rules, strict = options.judge.rules(), options.judge.strict or session.settings.strict
    with session.judging_by(options.about.spec):
        boot = session.hand_off(options.about.way.here)
        one = report(Observed(boot, session.doubts(boot), session.file), rules, strict)
        about = SubjectOptions(options.a, cast(SpecName, boot.revision.name))
    two = report(observe(open_subject(about, progress)), rules, strict)
    return compare((session.target.name, options.a), one, two, strict)


def _sides(options: DiffOptions, sides: tuple[str, str]) -> tuple[SubjectOptions, ...]:
    """The options of each side, with those that it takes. Raises BadInput for an option that neither takes."""
    a, b = sides
    not_for_both = refused(a) & refused(b)
    for one in given(options.about):
        if one.name in not_for_both:
            raise BadInput(f"{one.words} applies to neither {a} nor {b}", "leave it out")
    return tuple(without(options.about, refused(side))._replace(subject=side) for side in sides)
