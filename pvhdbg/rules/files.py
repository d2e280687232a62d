"""Only the rules of the kernel file, for callers without a machine. `catalogue` imports the machine rules too."""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.rules import kernel_file
from pvhdbg.rules.declare import FileRule, Rule, Verdict
from pvhdbg.spec.revisions import V1, Revision

FILE_CHAPTERS: tuple[tuple[str, tuple[FileRule, ...]], ...] = (("Kernel file", kernel_file.CHAPTER),)
FILE_RULES = tuple(one for _, rules in FILE_CHAPTERS for one in rules)


def judge_file(kernel: KernelFile, rules: Iterable[Rule] = FILE_RULES, revision: Revision = V1) -> tuple[Verdict, ...]:
    """The verdicts of the file rules among `rules`, in their order."""
    return tuple(one.judge(kernel, revision) for one in rules if isinstance(one, FileRule))
