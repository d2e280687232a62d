"""What `diff` does: bring two subjects to their entry, one after the other, and compare them."""

from __future__ import annotations

from pvhdbg.commands.table import Answer, Request
from pvhdbg.errors import BadInput
from pvhdbg.report.style import Style

_SIDES = ("a", "b")


def diff(request: Request) -> Answer:
    """`diff`: the same where it matters, or not. Raises PvhdbgError."""
    from pvhdbg.rules.catalogue import choose

    rules = choose(request.select or (), request.ignore or ())  # a wrong id is told before a machine is started for nothing
    sides = _sides(request)
    from pvhdbg.commands.judging import report
    from pvhdbg.machine.subject import observe
    from pvhdbg.report.diff import compare

    one, two = (report(observe(side), rules, bool(request.strict)) for side in sides)
    comparison = compare((str(request.a), str(request.b)), one, two, bool(request.strict))

    def as_text(style: Style) -> str:
        from pvhdbg.report import diff_text

        return diff_text.render(comparison, style)

    def as_json() -> str:
        from pvhdbg.report import diff_text

        return diff_text.render_json(comparison)

    def as_html() -> str:
        from pvhdbg.report import diff_html

        return diff_html.render(comparison)

    return Answer(as_text, as_json, comparison.exit_code, {"html": as_html})


def _sides(request: Request) -> list[Request]:
    """A request for each side, with the options that it takes. Raises BadInput for an option that neither takes."""
    from pvhdbg.machine.subject_kind import refused

    not_for = [refused(str(request.values[side])) for side in _SIDES]
    given = {name: value for name, value in request.values.items() if name not in _SIDES}
    for name in not_for[0] & not_for[1]:
        if given.get(name):
            option = "words after --" if name == "extra" else f"--{name}"
            raise BadInput(f"{option} is for neither {request.a} nor {request.b}", "leave it out")
    return [
        Request(
            {**{name: value for name, value in given.items() if name not in left_out}, "subject": request.values[side]},
            request.progress,
        )
        for side, left_out in zip(_SIDES, not_for, strict=True)
    ]
