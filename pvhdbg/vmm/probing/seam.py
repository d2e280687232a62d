"""What is the same of all VMMs that boot the guest `probe`: what was asked for, whether the VMM is here, and what is executed.

One module for each VMM makes a `ProbedVmm`; `running` starts it, follows its console and ends it. Nothing else knows a VMM.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pvhdbg.errors import BadInput
from pvhdbg.model import Vmm

DEFAULT_MIB = 256
_UNITS = {"": 1, "M": 1, "G": 1024}
_MOST_MIB = 1 << 20


class Wish(NamedTuple):
    """The boot that was asked for. `kernel` is the probe's file, `binary` the VMM's program or image where one was named."""

    kernel: str
    binary: str | None = None
    mib: int = DEFAULT_MIB
    initrds: tuple[str, ...] = ()
    append: str | None = None


class Found(NamedTuple):
    """Whether a VMM is here: its program and version, or what is `missing` and what to do about it.

    `version` is empty where a file does not tell it.
    """

    path: str = ""
    version: str = ""
    missing: str = ""
    todo: str = ""


@dataclass(frozen=True)
class Launch:
    """What is executed. All files of a run are in one private folder.

    `console` is the file that the guest's output goes to; None is the process's own output. `tells` finds the VMM's version in that
    output. `undo` is executed at the end, on every way out. `context` is a file that will hold what xen-hvmctx printed.
    """

    command: tuple[str, ...]
    vmm: Vmm
    console: str | None = None
    tells: re.Pattern[bytes] | None = None
    undo: tuple[str, ...] = ()
    context: str | None = None


@dataclass(frozen=True)
class ProbedVmm:
    """A VMM that can boot the probe.

    `find` takes the program that was named (or None) and raises nothing; `prepare` takes the wish, what was found and the run's
    folder, and raises BadInput. `modules` is how many ramdisks it takes, `seconds` how long a boot may take, `silent` what may be
    the reason where the guest printed nothing.
    """

    name: str
    title: str
    find: Callable[[str | None], Found]
    prepare: Callable[[Wish, Found, str], Launch]
    modules: int = 1
    seconds: float = 30.0
    silent: str = ""

    def refuse(self, wish: Wish) -> None:
        """Raises BadInput for a wish that this VMM cannot fulfil."""
        if len(wish.initrds) > self.modules:
            takes = "one ramdisk" if self.modules == 1 else f"{self.modules} ramdisks"
            raise BadInput(f"{self.title} takes {takes}, not {len(wish.initrds)}", "give --initrd less often, or --run xen")
        for text in (wish.kernel, wish.append or "", *wish.initrds):
            if "\0" in text or "\n" in text:
                raise BadInput("an argument for the VMM contains a zero byte or a line break", "remove it")


def mib(text: str | None) -> int:
    """A size of memory in MiB: "256M", "1G", "512". Raises BadInput."""
    if text is None:
        return DEFAULT_MIB
    found = re.fullmatch(r"([0-9]{1,7})([MG]?)", text.upper())
    size = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < size <= _MOST_MIB:
        raise BadInput(f"{text!r} is not a size of memory that a VMM here takes", "give MiB or GiB, such as 256M or 1G")
    return size
