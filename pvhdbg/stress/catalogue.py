"""All mutations, and how a user chooses from them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.stress import processor, start_info
from pvhdbg.stress.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (*processor.MUTATIONS, *start_info.MUTATIONS)


def find(id: str) -> Mutation:
    """The mutation of that id. Raises BadInput with the nearest ids."""
    found = next((one for one in MUTATIONS if one.id == id), None)
    if found is None:
        near = difflib.get_close_matches(id, [one.id for one in MUTATIONS], 3, 0.4)
        todo = f"did you mean {', '.join(near)}?" if near else "list them with: pvhdbg stress --list"
        raise BadInput(f"{printable(id)} is not a mutation", todo)
    return found


def choose(ids: Iterable[str]) -> tuple[Mutation, ...]:
    """The mutations of these ids (each may be several, with commas); all without one. Raises BadInput."""
    names = [name for id in ids for name in id.split(",") if name]
    return tuple(dict.fromkeys(find(name) for name in names)) or MUTATIONS
