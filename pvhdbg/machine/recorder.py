"""The flight recorder for a QEMU that is started here: whether it is available, and its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.kernel.image import KernelImage
from pvhdbg.machine.names import Names, addresses_of, panics
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.record import replace
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.recorder.library import NoRecorder, library
from pvhdbg.tracing.recording_layout import MOST_MARKS
from pvhdbg.vmm.options import RecorderOptions, names_accelerator, option_names

_MARKS = MOST_MARKS - 4  # the rest is for panic()


def counts_by_calls(options: SubjectOptions) -> bool:
    """Whether exact counts are slow, because several CPUs run by a deterministic clock.

    QEMU 10.0 and 11.1: the code for an inline add of a plugin then accesses memory that is not mapped, and QEMU crashes.
    """
    launch = options.launch
    return launch.deterministic and ((launch.cpus or 1) > 1 or "smp" in option_names(launch.extra))


def attended(
    options: SubjectOptions, warnings: list[SafeText], progress: Progress
) -> Callable[[KernelImage], RecorderOptions | None]:
    """The recorder's options for a machine that a user runs and stops, for a kernel that was opened: behind its entry it stops nowhere by
    itself. By the deterministic clock each instruction is counted, since its place in the boot must be known; see also `recorder_for`.
    """

    def wanted(image: KernelImage) -> RecorderOptions | None:
        entry = image.kernel().entry
        if options.launch.deterministic and entry is not None:
            try:
                plugin = library(progress)
            except NoRecorder as error:
                warnings.append(_without(error))
                return None
            return RecorderOptions(plugin, entry, exact=True, calls=counts_by_calls(options), halts=(entry,), code=True)
        plain = recorder_for(options, image, (), warnings, progress, exact=False)
        return None if plain is None else replace(plain, code=True, counts=False)

    return wanted


def watching(
    options: SubjectOptions, warnings: list[SafeText], progress: Progress, *, exact: bool = False
) -> Callable[[KernelImage], RecorderOptions | None]:
    """The recorder's options for a machine that is watched behind its entry, for a kernel that was opened; see `recorder_for`.

    The first instructions are counted in any case; `exact` counts all of them, which makes a whole boot a fifth slower. By the
    deterministic clock all are counted, since a number then names a place of every such boot.
    """

    def wanted(image: KernelImage) -> RecorderOptions | None:
        plain = recorder_for(options, image, (), warnings, progress, exact=exact or options.launch.deterministic)
        return None if plain is None else replace(plain, halts=(*plain.halts, *panics(Names(image))), code=True, counts=False)

    return wanted


def keeping_clock(
    options: SubjectOptions, warnings: list[SafeText], progress: Progress
) -> Callable[[KernelImage], RecorderOptions | None]:
    """The recorder's options for a machine that another engine observes: only because no stop moves the deterministic clock with the recorder.

    None without that clock; see `recorder_for`.
    """

    def wanted(image: KernelImage) -> RecorderOptions | None:
        if not options.launch.deterministic:
            return None
        plain = recorder_for(options, image, (), warnings, progress, exact=False)
        return None if plain is None else replace(plain, marks=(), counts=False)

    return wanted


def recorder_for(
    options: SubjectOptions, image: KernelImage, marks: Sequence[str], warnings: list[SafeText], progress: Progress,
    *, exact: bool = True,
) -> RecorderOptions | None:  # fmt: skip
    """The recorder's options for a boot of `image`; None where it is not wanted, or not available: then `warnings` says why.

    `exact` counts each instruction, which costs more than sums over blocks. `marks` are symbols and 0xADDRESSes; Linux's own milestones are
    added. Raises BadInput for a mark that is neither.
    """
    launch = options.launch
    entry = image.kernel().entry
    kvm = launch.accel in ("kvm", "auto") or names_accelerator(launch.machine, launch.extra)
    if launch.no_recorder or kvm or options.way.entry is not None or options.way.here or entry is None:
        return None
    names = Names(image)
    addresses = [*names.found(MILESTONES), *(address for mark in marks for address in addresses_of(mark, names, "--milestone"))]
    try:
        marked = tuple(dict.fromkeys(addresses))[:_MARKS]
        # A breakpoint's stop would put the clock forward to the next timer.
        halts = (entry,) if launch.deterministic else ()
        slow = counts_by_calls(options)
        return RecorderOptions(library(progress), entry, exact=exact, calls=slow, marks=marked, halts=halts)
    except NoRecorder as error:
        warnings.append(_without(error))
        return None


def _without(error: NoRecorder) -> SafeText:
    return safe(f"without the flight recorder: {error.what} ({error.todo})")
