"""`boot diff`: where two deterministic boots part, and what makes them part. Kernels are booted now, recordings are read."""

from __future__ import annotations

from typing import Any

from pvhdbg.commands.boot import recorded_how
from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.driver.compared_boots import Booting, Culprit, Side, comparable, culprit, side_of
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.recorded_machine import names_of
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.options import Accelerator, EntryOptions, LaunchOptions, SubjectOptions, given
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.record import NamedTuple
from pvhdbg.report import boot_text
from pvhdbg.report.answers.boots import BootDiffAnswer
from pvhdbg.tracing.recorder.file import is_boot, read_boot
from pvhdbg.tracing.story import parting

_DIFFERENT = 1  # the exit code of boots that part, as diff's


class OwnLaunch(NamedTuple):
    """B's own options for QEMU, where they are not A's."""

    b_append: str | None = None
    b_initrd: str | None = None
    b_machine: str | None = None
    b_memory: str | None = None
    b_cpus: int | None = None
    b_cpu: str | None = None
    b_accel: Accelerator | None = None
    b_qemu: str | None = None

    def over(self, launch: LaunchOptions) -> LaunchOptions:
        """A's options, with these in place of A's own."""
        own: dict[str, Any] = {
            name.removeprefix("b_"): value for name, value in zip(self._fields, self, strict=True) if value is not None
        }
        return launch._replace(**own)


class BootDiffOptions(NamedTuple):
    """The options of `boot diff`. `launch` are those of both boots, `own` those of B alone; `kernel` is that of both recordings."""

    subject: str
    other: str
    kernel: str | None = None
    until: str | None = None
    seconds: float | None = None
    which_option: bool = False
    launch: LaunchOptions = LaunchOptions()
    own: OwnLaunch = OwnLaunch()
    way: EntryOptions = EntryOptions()


@takes(BootDiffOptions)
def diff(options: BootDiffOptions, context: Context) -> Answer:
    """`boot diff`: where two boots part; exit code 1 if they do."""
    a = SubjectOptions(options.subject, launch=options.launch, way=options.way)
    b = a._replace(subject=options.other, launch=options.own.over(options.launch))
    booting = Booting(options.until, time_limit(options.seconds), context.progress)
    guilty: Culprit | None = None
    saved_a, saved_b = is_boot(a.subject), is_boot(b.subject)
    if saved_a or saved_b:
        _refuse_options(options, a if saved_a else b, b, both=saved_a and saved_b)
    for one, saved in ((a, saved_a), (b, saved_b)):
        if not saved:
            refuse_all_but_kernels(one.subject, "boot diff compares kernels and recorded boots: name one of those")
    if saved_a or saved_b:
        first = _read(a.subject, options.kernel) if saved_a else booting.boot(a)
        second = _read(b.subject, options.kernel) if saved_b else booting.boot(b)
    else:
        first, second = booting.both(a, b)
    first, second, cut = comparable(first, second)
    found = parting(first.functions, second.functions)
    if options.which_option and not found.identical:
        guilty = culprit(a, b, (first, second), booting.boot)
    cause = None if guilty is None else _told(guilty)
    shifted_a, shifted_b = found.shifted or (None, None)
    document = BootDiffAnswer(
        recorded_how(first.info), recorded_how(second.info), found.identical, found.index, found.common, found.a, found.b,
        found.only_a, found.only_b, shifted_a, shifted_b, found.moved, cause, found.cpu,
    )  # fmt: skip
    return shows(
        lambda style: (
            boot_text.difference(first.info, second.info, found, cut, style)
            + (f"what makes them part there: {cause}\n" if cause is not None else "")
        ),
        document,
        0 if found.identical else _DIFFERENT,
    )


def _read(path: str, kernel: str | None) -> Side:
    """A recorded boot. Raises BadInput, also for one that is not deterministic."""
    info, recording = read_boot(path)
    if not info.deterministic:
        raise BadInput(
            f"{path} was recorded with a clock that differs from run to run: what parts two such boots is noise",
            "record both with --deterministic",
        )
    file = kernel or info.kernel
    with open_kernel(file) as image:
        if image.with_hash().sha256 != info.kernel_hash:
            raise BadInput(f"{file} is not the kernel that {path} was recorded of", "name that one: --kernel FILE")
        return side_of(info, recording, names_of(image))


def _refuse_options(options: BootDiffOptions, saved: SubjectOptions, b: SubjectOptions, *, both: bool) -> None:
    """Raises BadInput for what a recording cannot be given any more."""
    own = [f"--{name.replace('_', '-')}" for name, value in zip(OwnLaunch._fields, options.own, strict=True) if value is not None]
    words = [one.words for one in given(saved) if one.words != "--timeout"] if both else []
    if saved.subject == b.subject or both:
        words += own
    words += ["--which-option"] if options.which_option else []
    if words:
        raise BadInput(f"{words[0]} cannot be used with {saved.subject}: that boot is recorded already", "name the kernel instead")


def _told(guilty: Culprit) -> str:
    boots = "" if not guilty.boots else f" ({guilty.boots} more boot{'' if guilty.boots == 1 else 's'})"
    together = "" if guilty.alone else ", together with other differences"
    return f"{guilty.difference.words}{together}{boots}"
