"""One boot with some mutations: the guest lives to its goal, dies, or the mutations could not be tried."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.pattern import BadPattern, compiled
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput, CannotMutate, PvhdbgError
from pvhdbg.kernel.image import KernelImage
from pvhdbg.machine.capture import capture, with_command
from pvhdbg.machine.entry_search import Plan
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.machine.recorder import watching
from pvhdbg.machine.sound_vmm import without_bugs
from pvhdbg.machine.subject import Opened, boot_kernel
from pvhdbg.machine.waiter import Missed, Waiter, opened_waiter
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome, Severity
from pvhdbg.stress.applying import ChangeableMachine, apply
from pvhdbg.stress.catalogue import choose
from pvhdbg.stress.handover import NotTried
from pvhdbg.stress.mutation import ChangedHandover, Mutation
from pvhdbg.stress.shared_memory import arguments, mapped
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.death import DeathKind
from pvhdbg.tracing.goal import Goal
from pvhdbg.vmm.qemu import version_of

DEFAULT_GOAL = "rest_init"  # Linux: the last function of the boot CPU's start
_SERIAL, _EXIT = "serial:", "exit:"
_DEFAULT_CPU = "qemu64"
_NOTHING = safe("")


class Fate(Enum):
    """What came of a boot; the values are those of JSON."""

    SURVIVES = "survives"
    DIES = "dies"
    HANGS = "does not reach the goal in time"
    NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Trial:
    """The mutations of a boot, by id, and what came of it, with the cause in one sentence and a next step."""

    ids: tuple[str, ...]
    fate: Fate
    cause: SafeText = _NOTHING
    next: SafeText = _NOTHING

    @property
    def killed(self) -> bool:
        """Whether the guest did not reach its goal."""
        return self.fate in (Fate.DIES, Fate.HANGS)


@dataclass(frozen=True)
class StressWish:
    """A kernel and its machine, the goal, and the seconds that each boot gets. `asked` are ids that the user named."""

    about: SubjectOptions
    goal: str | None = None
    seconds: float = 30.0
    asked: frozenset[str] = frozenset()


@contextmanager
def opened_with(
    mutations: Sequence[Mutation], about: SubjectOptions, asked: bool, progress: Progress = lambda _: None
) -> Iterator[Opened]:
    """A QEMU of ours at the kernel's entry, changed by these mutations. Its `boot` is the hand-off as it is then.

    Raises NotTried where this machine cannot have them, PvhdbgError.
    """
    about = about._replace(launch=_launch(about.launch, mutations))
    notes: list[SafeText] = []
    with boot_kernel(about, progress, onward=True, recorded=watching(about, notes, progress)) as opened:
        opened.warnings += notes
        opened.boot = _mutated(opened, mutations, about, asked)
        yield opened


@contextmanager
def launched(ids: Sequence[str], about: SubjectOptions, progress: Progress = lambda _: None) -> Iterator[Opened]:
    """As `opened_with`, for mutations that a user named. Raises BadInput for one that there is not, CannotMutate."""
    if isinstance(ids, str):
        raise TypeError(f"mutate is a list of ids, not one: mutate=[{ids!r}]")
    mutations = choose(ids)
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(opened_with(mutations, about, True, progress))
        except NotTried as why:
            raise CannotMutate(
                f"{' and '.join(ids)} cannot be done here: {why}", "choose other mutations: pvhdbg stress --list"
            ) from why
        yield opened


def boot_with(mutations: Sequence[Mutation], wish: StressWish, cancelled: Callable[[], bool] = bool) -> Trial:
    """Boot the kernel with all of these mutations; without one it is the control. Raises PvhdbgError; BadInput for a wrong goal."""
    ids = tuple(one.id for one in mutations)
    about = wish.about
    if wish.goal is not None and wish.goal.startswith(_EXIT):  # QEMU 10 takes isa-debug-exit for a shutdown, and would stay
        about = about._replace(launch=about.launch._replace(extra=(*about.launch.extra, "-action", "shutdown=poweroff")))
    try:
        with opened_with(mutations, about, bool(wish.asked & set(ids))) as opened:
            return _fate(ids, opened, wish, cancelled)
    except NotTried as why:
        return Trial(ids, Fate.NOT_TRIED, safe(str(why)))


def _launch(said: LaunchOptions, mutations: Sequence[Mutation]) -> LaunchOptions:
    cpu = ",".join(one.cpu for one in mutations if one.cpu)
    if cpu:
        sound, _ = without_bugs(said, version_of)
        said = said._replace(cpu=f"{sound.cpu or _DEFAULT_CPU},{cpu}")
    return said._replace(extra=(*arguments(said.memory), *said.extra))


def _mutated(opened: Opened, mutations: Sequence[Mutation], about: SubjectOptions, asked: bool) -> BootState:
    """Change the machine, and judge the new hand-off: it must conform, or the mutation is wrong."""
    assert opened.qemu is not None
    draft = ChangedHandover.of(opened.boot, asked, opened.file.elf.notes if opened.file is not None else ())
    for one in mutations:
        one.change(draft)
    with mapped(opened.qemu.pid) as memory:
        apply(draft, ChangeableMachine(opened.target, memory))
    if not mutations:
        return opened.boot
    spec = next((one.spec for one in mutations if one.spec != "v1"), about.revision)
    plan = Plan(
        spec=spec,
        kernel=opened.boot.snapshot.kernel,
        timeout=about.way.timeout,
        image=opened.image,
        booted=opened.image is not None,
    )
    boot = capture(opened.target, plan)
    before = {one.rule.id for one in judge(opened.boot) if one.outcome in (Outcome.FAIL, Outcome.KNOWN)}
    new = [one.rule.id for one in judge(boot) if one.outcome is Outcome.FAIL and one.severity is Severity.MUST]
    new = [id for id in new if id not in before]
    if new:
        raise NotTried(f"the changed hand-off violates the ABI ({', '.join(new)}), which is a defect of this mutation")
    return with_command(boot, opened.qemu.command)


# --- the goal -----------------------------------------------------------------------------------------------------


def default_goal(image: KernelImage) -> str:
    """Linux' `rest_init`. Raises BadInput for a kernel that does not have it."""
    try:
        image.symbols().physical_address(DEFAULT_GOAL)
    except BadInput as error:
        raise BadInput(
            f"the kernel has no {DEFAULT_GOAL} to boot to",
            "say what the guest has to reach: --until SYMBOL, serial:REGEX or exit:STATUS",
        ) from error
    return DEFAULT_GOAL


def _fate(ids: tuple[str, ...], opened: Opened, wish: StressWish, cancelled: Callable[[], bool]) -> Trial:
    assert opened.image is not None
    text = wish.goal or default_goal(opened.image)
    with ExitStack() as stack:
        waiter = opened_waiter(stack, opened.target, opened.boot, opened.image, opened.qemu)
        missed = waiter.until(_goal(text, waiter, opened, cancelled), wish.seconds)
    if missed is None or _fulfilled(text, missed, opened):
        return Trial(ids, Fate.SURVIVES)
    missed.refuse_vmm_bug()
    if missed.died:
        return Trial(ids, Fate.DIES, safe(missed.words), safe(missed.why.next))
    late = f"not within {wish.seconds:g} s"
    if (
        opened.boot.snapshot.vmm.kvm
    ):  # it is seen by samples: that a few of them found it in one loop does not say that it waits there
        return Trial(ids, Fate.HANGS, safe(f"{late}; the CPU was last seen at {missed.place}" if missed.place else late))
    return Trial(ids, Fate.HANGS, safe(f"{late}: {missed.words}"), safe(missed.why.next))


def _goal(text: str, waiter: Waiter, opened: Opened, cancelled: Callable[[], bool]) -> Goal:
    if text.startswith(_SERIAL):
        pattern = _pattern(text)
        return Goal(done=lambda: cancelled() or _said(pattern, opened))
    if text.startswith(_EXIT):
        _status(text)
        return Goal(done=cancelled)
    return replace(waiter.goal(text), done=cancelled)


def _fulfilled(text: str, missed: Missed, opened: Opened) -> bool:
    """Whether the guest reached its goal before it ended: the last line of a guest that ends QEMU, or its exit status."""
    if text.startswith(_SERIAL):
        return _said(_pattern(text), opened)
    return text.startswith(_EXIT) and missed.death.kind is DeathKind.EXITED and missed.death.status == _status(text)


def _said(pattern: re.Pattern[str], opened: Opened) -> bool:
    return opened.qemu is not None and any(pattern.search(line) for line in opened.qemu.serial_tail(1000))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return compiled(text.removeprefix(_SERIAL))
    except BadPattern as error:
        raise BadInput(f"--until {text}: {error}", "give a regular expression that a line of the serial port matches") from error


def _status(text: str) -> int:
    try:
        return int(text.removeprefix(_EXIT))
    except ValueError:
        raise BadInput(f"--until {text}: the status is not a number", "give the exit status of QEMU, as in exit:33") from None


def failed(ids: tuple[str, ...], error: PvhdbgError) -> Trial:
    """A boot that could not be observed."""
    return Trial(ids, Fate.NOT_TRIED, safe(error.what), safe(error.todo))
