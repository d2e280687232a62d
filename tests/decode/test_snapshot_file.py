"""The .pvhsnap file: what is written is read back unchanged, and what was not written by us is refused by name."""

import base64
import dataclasses
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode.snapshot_file import MEMORY_BOUND, SCHEMA, decode, encode
from pvhdbg.errors import BadSnapshot
from pvhdbg.machine.capture import decoded
from pvhdbg.model import Vmm
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.examples import at_draft_a_entry, at_entry
from pvhdbg.targets.recorded import RecordedTarget

TEXT = encode(at_entry().snapshot())


@pytest.mark.parametrize(
    "example",
    [
        at_entry(),
        at_entry(vmm=Vmm("QEMU", "7.2", "tcg", ("qemu", "-append", "x" * 131071, "\udcff", ""))),
        at_entry(segments=False, backing=None, kernel=None, a20=None),
        at_draft_a_entry(32),
    ],
)
def test_round_trip(example: object) -> None:
    snapshot = example.snapshot()  # type: ignore[attr-defined]
    assert decode(encode(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": "pvhdbg/snapshot/9"}, "pvhdbg/snapshot/9"),
        ({"schema": None}, SCHEMA),
        ({"registers": {"rax": 5}}, "registers.rax"),
        ({"registers": []}, "registers"),
        ({"registers": {"rax": "0x" + "f" * 17}}, "registers.rax"),
        ({"memory": [{"address": "0x0", "size": 4, "zlib": "!!"}]}, "memory[0]"),
        ({"memory": [{"address": "0x0", "size": MEMORY_BOUND + 1, "zlib": ""}]}, "64 MiB"),
        ({"memory": [{"address": "0x0", "size": 4, "zlib": base64.b64encode(zlib.compress(bytes(5))).decode()}]}, "4 bytes"),
        ({"gdt": ["0x1"]}, "gdt"),
        ({"a20": "yes"}, "a20"),
        ({"vmm": {"command": "qemu"}}, "vmm.command"),
        ({"vmm": {"command": [3]}}, "vmm.command[0]"),
        ({"vmm": {"command": ["x" * (1 << 19)]}}, "vmm.command[0]"),
        ({"kernel": {"loads": 3}}, "kernel.loads"),
        ({"holes": [["0x0", "0x8", "why", "no"]]}, "holes[0][3]"),
        ({"holes": ["0x0"]}, "holes[0]"),
    ],
)
def test_damage_is_named(change: dict[str, object], named: str) -> None:
    document = {**json.loads(TEXT), **change}
    with pytest.raises(BadSnapshot) as error:
        decode(json.dumps(document))
    assert named in error.value.what
    assert error.value.todo


def test_a_hole_that_nobody_looked_at_stays_one() -> None:
    snapshot = at_entry().snapshot()
    memory = snapshot.memory.with_hole(0x5000, 8, "left out", looked=False).with_hole(0xB0000000, 4, "nothing is there")
    snapshot = dataclasses.replace(snapshot, memory=memory)
    read = decode(encode(snapshot))
    assert read == snapshot
    assert [hole.looked for hole in read.memory.holes] == [False, True]


def test_what_a_snapshot_does_not_hold_is_not_said_to_be_absent() -> None:
    """Only the machine's own layout, or an error of its stub, tells that nothing is there."""
    snapshot = at_entry(backing=None, rsdp_paddr=0x7654_0000).snapshot()
    boot = decoded(RecordedTarget(snapshot), snapshot, "v1")
    assert {verdict.rule.id: verdict.outcome for verdict in judge(boot)}["SI-RSDP-SIG"] is Outcome.UNKNOWN
    hole = dataclasses.replace(snapshot, memory=snapshot.memory.with_hole(0x7654_0000, 0x1000, "E14"))
    boot = decoded(RecordedTarget(hole), hole, "v1")
    assert {verdict.rule.id: verdict.outcome for verdict in judge(boot)}["SI-RSDP-SIG"] is Outcome.FAIL


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50 << 20), 9)).decode()
    document = {**json.loads(TEXT), "memory": [{"address": "0x0", "size": 16, "zlib": bomb}]}
    with pytest.raises(BadSnapshot):
        decode(json.dumps(document))


@settings(deadline=None)
@given(st.integers(0, len(TEXT)), st.text(max_size=8))
def test_a_cut_or_edited_file_is_a_bad_snapshot_or_still_one(at: int, put: str) -> None:
    for text in (TEXT[:at], TEXT[:at] + put + TEXT[at + len(put) :]):
        try:
            decode(text)
        except BadSnapshot as error:
            assert error.what  # noqa: PT017 - any other exception fails the test


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_any_json_is_a_bad_snapshot(value: object) -> None:
    with pytest.raises(BadSnapshot):
        decode(json.dumps(value))
