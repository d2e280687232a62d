"""Command lines as values: what argparse alone would get wrong."""

from __future__ import annotations

import pytest

from pvhdbg.errors import BadInput
from pvhdbg.frontends.arguments import parse
from pvhdbg.frontends.verbs import VERBS


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--select", "PVH-CR0", "si-mm", "--ignore", "SI-MM-COUNT", "vmlinux"],
        ["check", "vmlinux", "--select", "PVH-CR0", "si-mm", "--ignore", "SI-MM-COUNT"],
        ["check", "--select", "PVH-CR0,si-mm", "vmlinux", "--ignore=SI-MM-COUNT"],
        ["check", "--select", "PVH-CR0", "--select", "si-mm", "--ignore", "SI-MM-COUNT", "vmlinux"],
    ],
)
def test_rules_are_chosen_in_every_way_of_writing_it(words: list[str]) -> None:
    _, values = parse(words)
    assert values["subject"] == "vmlinux"
    assert values["select"] == ["PVH-CR0", "si-mm"]
    assert values["ignore"] == ["SI-MM-COUNT"]


def test_what_follows_two_dashes_is_qemus() -> None:
    _, values = parse(["run", "vmlinux", "-m", "1G", "--", "-m", "2G", "--", "x"])
    assert (values["memory"], values["extra"]) == ("1G", ("-m", "2G", "--", "x"))
    with pytest.raises(BadInput):
        parse(["attach", ":1", "--", "-m", "2G"])


@pytest.mark.parametrize("words", [["nonsense"], ["snapshot"], ["snapshot", "load"], ["check"], ["check", "a", "b"], ["check", "a", "--leav", "x"], ["explain"]])
def test_words_that_do_not_fit(words: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        parse(words)
    assert "--help" in error.value.todo


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_help_and_an_example_that_parses(verb: object) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse([*verb.name.split(), "--help"])  # type: ignore[attr-defined]
    assert leaving.value.code == 0
    assert parse(verb.example.split()[1:])[0] is verb  # type: ignore[attr-defined]
