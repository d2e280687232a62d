"""`pvhdbg stress`: change what the ABI leaves open, boot, and say which change the guest does not survive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from textwrap import wrap as wrapped

from pvhdbg.commands import expecting, judging
from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.formats import JUDGED, of_boot
from pvhdbg.decode.text import printable
from pvhdbg.driver.options import time_limit
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import observe, open_subject
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.record import NamedTuple
from pvhdbg.report.answers.stress import MutationAnswer, MutationsAnswer, StressAnswer, TrialAnswer
from pvhdbg.report.document import Report
from pvhdbg.report.findings import VIOLATED
from pvhdbg.report.style import Style
from pvhdbg.rules.catalogue import choose as choose_rules
from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
from pvhdbg.spec.revisions import REVISIONS
from pvhdbg.stress.campaign import Campaign, StressResult, words
from pvhdbg.stress.catalogue import choose, find
from pvhdbg.stress.mutation import Mutation
from pvhdbg.stress.trial import Fate, StressWish, Trial, default_goal

_SECONDS = 30.0
_MOST_ROUNDS = 100_000
_MOST_JOBS = 256


class StressOptions(NamedTuple):
    """The options of `stress`. `only` and `skip` are ids of mutations, `seconds` what each boot gets, `expect` a file that
    describes the machine, and allows mutations."""

    about: SubjectOptions = SubjectOptions()
    list: bool = False
    until: str | None = None
    seconds: float | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    rounds: int = 0
    seed: int = 1
    jobs: int | None = None
    strict: bool = False
    expect: str | None = None


@takes(StressOptions)
def stress(options: StressOptions, context: Context) -> Answer:
    """`stress`: the exit code is 0 where the guest survives every mutation, 1 where it does not; 3 where it does not boot unchanged."""
    chosen = choose(options.only)
    if options.skip:
        skipped = set(choose(options.skip))
        chosen = tuple(one for one in chosen if one not in skipped)
    if options.list:
        return shows(lambda style: _listed(chosen, style), _list_document(chosen))
    if not options.about.subject:
        raise BadInput("stress needs a kernel file", "name it, or list the mutations with --list")
    refuse_all_but_kernels(options.about.subject)
    return _run(options, chosen, context)


def _run(options: StressOptions, chosen: tuple[Mutation, ...], context: Context) -> Answer:
    if not 0 <= options.rounds <= _MOST_ROUNDS:
        raise BadInput(f"--rounds {options.rounds} is not a number of boots", f"give a number from 0 to {_MOST_ROUNDS}")
    jobs = options.jobs if options.jobs is not None else len(os.sched_getaffinity(0))
    if not 1 <= jobs <= _MOST_JOBS:
        raise BadInput(f"--jobs {jobs} is not a number of machines", f"give a number from 1 to {_MOST_JOBS}")
    about, allowed = _expected(options)
    with open_kernel(about.subject) as image:
        goal = options.until or default_goal(image)
    asked = frozenset(one.id for one in chosen) if options.only else frozenset[str]()
    wish = StressWish(about, goal, time_limit(options.seconds if options.seconds is not None else _SECONDS), asked)
    result = Campaign(wish, jobs, context.progress).run(chosen, goal, options.rounds, options.seed)
    report = cache(lambda: _report(about, result, allowed, options.strict))

    def other(name: str) -> str:
        return of_boot(report(), about.subject)[name]()

    code = VIOLATED if any(_reason(one, allowed) is None for one in result.killers) else 0
    shown = shows(lambda style: _text(result, allowed, style), _document(result, allowed), code)
    return replace(shown, others={name: partial(other, name) for name in JUDGED if name not in ("text", "json")})


def _expected(options: StressOptions) -> tuple[SubjectOptions, dict[str, str]]:
    """The machine, and why each allowed mutation is allowed. Raises BadInput."""
    if options.expect is None:
        return options.about, {}
    expectations = expecting.load(options.expect)
    allowed = {find(one.rule).id: one.reason for one in expectations.stress}
    return expecting.with_machine(options.about, expectations, options.expect), allowed


def _reason(trial: Trial, allowed: Mapping[str, str]) -> str | None:
    """Why the guest need not survive this; None where it must."""
    return allowed.get(trial.ids[0]) if trial.killed and len(trial.ids) == 1 else None


# --- as a report: each mutation is one more check of the hand-off ---------------------------------------------------


def _report(about: SubjectOptions, result: StressResult, allowed: Mapping[str, str], strict: bool) -> Report:
    observed = observe(open_subject(about))
    report = judging.report(observed, choose_rules((), ()), strict)
    verdicts = tuple(trial_verdict(one, allowed) for one in (*result.trials, *result.sets))
    return replace(report, verdicts=(*report.verdicts, *verdicts))


def trial_verdict(trial: Trial, allowed: Mapping[str, str]) -> Verdict:
    """What came of a boot as one more check of the hand-off. `allowed` are the reasons in a file of expectations, by the mutation's id."""
    mutations = [find(one) for one in trial.ids]
    title = " and ".join(one.title for one in mutations)
    rule = Rule(
        f"STRESS-{'+'.join(trial.ids)}".upper(),
        f"the guest boots where {title}",
        mutations[0].clause,
        Severity.MUST,
        frozenset(REVISIONS),
        "The ABI leaves this open, so another VMM may do it.",
    )
    if trial.fate is Fate.NOT_TRIED:
        return Verdict(rule, Outcome.NOT_APPLICABLE, Severity.MUST, reason=trial.cause)
    if not trial.killed:
        return Verdict(rule, Outcome.PASS, Severity.MUST)
    reason = _reason(trial, allowed)
    found = (Violation("the boot", "it reaches the goal", trial.cause),)
    return Verdict(rule, Outcome.FAIL if reason is None else Outcome.REMARK, Severity.MUST, found, reason or "")


# --- as text and JSON -----------------------------------------------------------------------------------------------


def _text(result: StressResult, allowed: Mapping[str, str], style: Style) -> str:
    trials = [*result.trials, *result.sets]
    wide = max((len(_name(one)) for one in trials), default=0)
    room = max(style.width - wide - 4, 40)
    lines = [f"the unchanged guest reaches {printable(result.goal)}", ""]
    for one in trials:
        first, *rest = wrapped(words(one), room) or [""]
        colour = "bad" if one.killed else "good" if not one.cause else "dim"
        lines += [f"  {_name(one):<{wide}}  {style(colour, first)}", *(f"  {'':<{wide}}  {style(colour, line)}" for line in rest)]
        if (reason := _reason(one, allowed)) is not None:
            lines.append(f"  {'':<{wide}}  allowed: {reason}")
        elif one.killed and one.next:
            lines.append(f"  {'':<{wide}}  next: {one.next}")
    return "\n".join([*lines, "", _conclusion(result, allowed), ""])


def _name(trial: Trial) -> str:
    return " + ".join(trial.ids)


def _conclusion(result: StressResult, allowed: Mapping[str, str]) -> str:
    tried = [one for one in result.trials if one.fate is not Fate.NOT_TRIED]
    survived = sum(not one.killed for one in tried)
    text = f"survives {survived} of {len(tried)} mutations"
    left = len(result.trials) - len(tried)
    if left:
        text += f", {left} not tried"
    excused = sum(_reason(one, allowed) is not None for one in result.killers)
    if excused:
        text += f", {excused} allowed"
    if result.rounds:
        text += f"; {result.rounds} random sets (seed {result.seed}), {len(result.sets)} smallest sets kill it"
    return text


def _document(result: StressResult, allowed: Mapping[str, str]) -> StressAnswer:
    return StressAnswer(
        printable(result.goal),
        tuple(_trial_document(one, allowed) for one in result.trials),
        result.rounds,
        result.seed,
        tuple(_trial_document(one, allowed) for one in result.sets),
        _conclusion(result, allowed),
    )


def _trial_document(trial: Trial, allowed: Mapping[str, str]) -> TrialAnswer:
    return TrialAnswer(trial.ids, trial.fate.value, trial.cause, trial.next, _reason(trial, allowed))


def _listed(mutations: tuple[Mutation, ...], style: Style) -> str:
    lines = []
    for one in mutations:
        lines += [f"{style('head', one.id)}  {one.title}", f"    {one.clause}"]
        if one.done_by:
            lines.append(f"    done by: {one.done_by}")
    return "\n".join(lines) + "\n"


def _list_document(mutations: tuple[Mutation, ...]) -> MutationsAnswer:
    return MutationsAnswer(
        tuple(MutationAnswer(one.id, one.title, one.aspect.value, str(one.clause), one.done_by) for one in mutations)
    )
