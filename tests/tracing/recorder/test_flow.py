"""Every executed block: held against the counts and the ring of the same boot; saved, cut, damaged."""

import os
import signal
import subprocess
from collections import Counter
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg import guests
from pvhdbg.tracing.boot_file import decode, encode
from pvhdbg.tracing.flow import CHUNK, Flow, FlowChunk, FlowHead, packed, read, unpacked
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.recorder.file import open_bytes, open_recording
from pvhdbg.tracing.recorder.library import library
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import RING
from pvhdbg.vmm.options import RecorderOptions
from tests.support.cli_runner import Cli, eventually
from tests.support.sorting import examples
from tests.tracing.recorder.test_boot_file import INFO
from tests.tracing.recorder.test_recorder import booted, ended, entry_of, run_to_its_end
from tests.tracing.recorder.test_recording import SOURCE

LONG_MODE = guests.path("long_mode")


def agrees(recording: Recording, flow: Flow) -> None:
    """The flow holds each block as often as it was counted, and ends as the ring does."""
    blocks = list(chain.from_iterable(flow.chunk(index) for index in range(len(flow.numbers))))
    counts = recording.counts(0)
    assert Counter(blocks) == {block: runs for block, runs in enumerate(counts) if runs}
    last = [run.block.number for run in recording.last(0)]
    assert blocks[-len(last) :] == last
    assert len(blocks) > CHUNK


@pytest.mark.usefixtures("qemu")
def test_every_block_is_rebuilt() -> None:
    """The whole boot of long_mode, firmware included; then the same from a saved file."""
    recorder = RecorderOptions(library(), entry_of(LONG_MODE), exact=True, flow=True)
    with booted(LONG_MODE, recorder, memory="64M") as (qemu, target), ExitStack() as stack:
        run_to_its_end(qemu, target)
        data = stack.enter_context(open_bytes(os.fspath(qemu.recording), ""))
        raw = stack.enter_context(open_bytes(f"{qemu.recording}.flow0", ""))
        recording = Recording(data)
        flow = read(raw, recording.header.base)
        agrees(recording, flow)
        saved = b"".join(encode(INFO, data, [raw]))
    _, again = decode(saved)
    agrees(again, again.flows[0])
    first, *_, last = list(islice(again.flows[0].since(0, again.blocks()), 3000))
    assert again.block(first.block).linear == entry_of(LONG_MODE)
    assert first.number == 0
    assert last.number > 3000
    for missing in (1, 1000):
        with pytest.raises(BadRecording):
            decode(saved[:-missing])


@pytest.mark.usefixtures("qemu")
def test_it_is_whole_after_a_kill(vmlinux: Path) -> None:
    """A block may have been counted and not be in the flow yet, or be in it and not be counted: one, where QEMU was killed."""
    recorder = RecorderOptions(library(), entry_of(vmlinux), flow=True)
    with booted(vmlinux, recorder, append="console=ttyS0 panic=-1") as (qemu, target), open_recording(qemu.recording) as recording:
        target.resume()
        eventually(lambda: recording.cpu(0).head > 3_000_000, "the guest does not get on", within=30)
        os.kill(qemu.pid, signal.SIGKILL)
        ended(qemu)
        with open_bytes(f"{qemu.recording}.flow0", "") as raw:
            flow = read(raw, recording.header.base)
            blocks = list(chain.from_iterable(flow.chunk(index) for index in range(len(flow.numbers))))
        assert abs(len(blocks) - recording.cpu(0).head) <= 1
        assert max(blocks) < recording.header.block_count
        ring = [run.block.number for run in recording.last(0, RING // 2)][:-1]
        assert any(blocks[-len(ring) - more : len(blocks) - more] == ring for more in (0, 1, 2))


@pytest.mark.usefixtures("qemu")
def test_the_command(cli: Cli) -> None:
    file = cli.folder / "boot"
    cli("boot", LONG_MODE, "--exact", "--flow", "-o", file).ok()
    lines = cli("boot", "blocks", file, "--from", "in_long_mode", "--most", "3").ok().out.splitlines()
    assert lines[1].split()[0] == "10,284"
    assert lines[1].endswith("in_long_mode")
    assert len(lines) == 5
    document = cli("boot", "blocks", file, "--most", "2", "--format", "json").ok().json()
    assert document["blocks"][0]["pc"] == "0xfffffff0"
    cli("boot", "blocks", file, "--vcpu", "1").complaint(2, "holds no flow of CPU 1")
    cli("boot", LONG_MODE, "-o", file).ok()
    cli("boot", "blocks", file).complaint(2, "record it with: pvhdbg boot --flow")


def test_the_layout_is_the_compilers(tmp_path: Path) -> None:
    fields = [("flow_head", field) for field in FlowHead.fields()] + [("flow_chunk", field) for field in FlowChunk.fields()]
    lines = " ".join(f'printf("%zu ", offsetof(struct {name}, {field.name}));' for name, field in fields)
    (tmp_path / "offsets.c").write_text(f'#include "{SOURCE}"\nint main(void) {{ {lines} return 0; }}\n')
    subprocess.run(["gcc", "-w", "-o", tmp_path / "offsets", tmp_path / "offsets.c"], check=True)
    out = subprocess.run([tmp_path / "offsets"], check=True, capture_output=True, text=True).stdout
    assert out.split() == [str(field.offset) for _, field in fields]


@given(st.binary(max_size=60), st.integers(0, 1 << 63))
@settings(max_examples=examples(100), deadline=None)
def test_any_bytes_are_rebuilt_within_bounds(data: bytes, tail: int) -> None:
    saved, parts = packed(0, Flow([0], lambda _: data, tail, False))
    try:
        assert len(unpacked(saved, parts).chunk(0)) <= CHUNK
    except BadRecording:
        pass
