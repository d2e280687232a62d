"""All rules, in the order of the specification, and their selection by id."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable

from pvhdbg.decode.boot_state import BootState
from pvhdbg.errors import BadInput
from pvhdbg.rules import draft_a, image, machine_state, memory_map, modules, other_protocols, rsdp, segments, start_info
from pvhdbg.rules.declare import FileRule, MachineRule, Rule, Verdict, collect
from pvhdbg.rules.files import FILE_CHAPTERS

# Reports and the catalogue page print the chapter titles.
CHAPTERS: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    *FILE_CHAPTERS,
    ("Kernel in memory", image.CHAPTER),
    ("Machine state", machine_state.CHAPTER),
    ("Segments", segments.CHAPTER),
    ("Other protocols", other_protocols.CHAPTER),
    ("start_info", start_info.CHAPTER),
    ("Modules", modules.CHAPTER),
    ("RSDP", rsdp.CHAPTER),
    ("Memory map", memory_map.CHAPTER),
    ("Placement", start_info.PLACEMENT),
    ("Draft A", draft_a.CHAPTER),
)
RULES = collect(*(rules for _, rules in CHAPTERS))
MACHINE_RULES = tuple(one for one in RULES if isinstance(one, MachineRule))


def find(id: str) -> Rule:
    """The rule with that id, upper or lower case. Raises BadInput that names the nearest ids."""
    for one in RULES:
        if one.id == id.upper():
            return one
    import difflib

    near = difflib.get_close_matches(id.upper(), [one.id for one in RULES], 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "list all with: pvhdbg rules"
    raise BadInput(f"there is no rule {id!r}", hint)


# A rule pickles as its id: its body is a function, which does not.
for _kind in (MachineRule, FileRule):
    copyreg.pickle(_kind, lambda rule: (find, (rule.id,)))


def choose(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules whose id begins with one of `select` (all, when empty) and with none of `ignore`.

    Raises BadInput for a prefix that no rule has, and when no rule is left: a check that silently checks nothing is worse
    than no check.
    """
    select, ignore = [s.upper() for s in select], [i.upper() for i in ignore]
    for prefix in (*select, *ignore):
        if not any(one.id.startswith(prefix) for one in RULES):
            find(prefix)
    chosen = tuple(
        one
        for one in RULES
        if (not select or one.id.startswith(tuple(select))) and not (ignore and one.id.startswith(tuple(ignore)))
    )
    if not chosen:
        raise BadInput("the selection leaves no rule", "select more rules, or ignore fewer")
    return chosen


def judge(boot: BootState, rules: Iterable[Rule] = RULES) -> tuple[Verdict, ...]:
    """The verdicts of the machine rules among `rules`, in their order."""
    return tuple(one.judge(boot) for one in rules if isinstance(one, MachineRule))
