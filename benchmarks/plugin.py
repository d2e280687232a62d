"""The pytest plugin: what a `pvh_boot` costs over QEMU's own way to the entry, and what xdist makes of a hundred."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench, Row
from pvhdbg.booted import launch
from pvhdbg.vmm.options import DEFAULT_MEMORY, DEFAULT_QEMU

OVERHEAD = 0.15  # seconds
BOOTS = 100
SHARE = 0.8  # of as many times faster as there are cores
TESTS = f"""
import pytest

@pytest.mark.parametrize("number", range({BOOTS}))
def test_it(pvh_boot, number):
    pvh_boot().assert_conforms()
"""


def rows(bench: Bench) -> Iterator[Row]:
    """The rows about the plugin."""
    bare, ours = bench.pair(lambda: bare_start(bench), lambda: booted(bench))
    over = [two - one for one, two in zip(bare, ours, strict=True)]
    median = statistics.median(over)
    said = f"{median:.3f} s ({min(over):.3f} to {max(over):.3f}); boot {statistics.median(ours):.3f} s, bare {statistics.median(bare):.3f} s"
    yield Row(
        "`pvh_boot` less a bare QEMU's start to the entry", [], [], f"<= {OVERHEAD} s", lambda _: median <= OVERHEAD, note=said
    )
    cores = len(os.sched_getaffinity(0))
    what, goal = f"{BOOTS} boots one after the other / with xdist on {cores} cores", SHARE * cores
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("xdist") is None:
        yield Row(what, [], [], f">= {goal:.1f}", lambda _: False, note="pytest-xdist is not installed: make test installs it")
        return
    both = [(session(bench, 0), session(bench, cores)) for _ in range(2)]
    yield Row(what, [one for one, _ in both], [two for _, two in both], f">= {goal:.1f}", lambda r: r >= goal)


def booted(bench: Bench) -> float:
    """Seconds until a test has its boot, captured, decoded and judged."""
    began = time.perf_counter()
    with launch(bench.kernel):
        return time.perf_counter() - began


def bare_start(bench: Bench) -> float:
    """Seconds for QEMU alone, from its start to the stop at the entry, by nothing but the three packets that it takes."""
    with tempfile.TemporaryDirectory(prefix="pvhdbg-") as folder:
        path = f"{folder}/gdb"
        command = [
            DEFAULT_QEMU,
            "-kernel",
            str(bench.kernel),
            "-m",
            DEFAULT_MEMORY,
            "-accel",
            "tcg",
            "-nic",
            "none",
            "-display",
            "none",
        ]
        command += ["-monitor", "none", "-serial", "null", "-S", "-gdb", f"unix:{path},server=on,wait=off"]
        began = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as qemu, socket.socket(socket.AF_UNIX) as stub:
            try:
                stub.settimeout(20)
                while time.perf_counter() < began + 20:
                    with contextlib.suppress(OSError):
                        stub.connect(path)
                        break
                    time.sleep(0.001)
                _ask(stub, b"Z1,%x,1" % bench.entry)
                stopped = _ask(stub, b"c")
                took = time.perf_counter() - began
            finally:
                qemu.kill()
    if b"T05" not in stopped:
        raise SystemExit(f"a bare QEMU did not come to the entry: {stopped!r}")
    return took


def _ask(stub: socket.socket, packet: bytes) -> bytes:
    """One packet, and its answer's."""
    stub.sendall(b"$%s#%02x" % (packet, sum(packet) & 0xFF))
    said = b""
    while b"#" not in said[:-2]:
        data = stub.recv(4096)
        if not data:
            raise SystemExit("QEMU closed its debugger's connection")
        said += data
    stub.sendall(b"+")
    return said


def session(bench: Bench, workers: int) -> float:
    """Seconds for a whole pytest session with a hundred boots, in so many workers; 0 is without xdist."""
    test = bench.folder / "test_boots.py"
    test.write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(bench.folder)]
    command += ["-p", "pvhdbg.pytest_plugin", "--pvh-kernel", str(bench.kernel)]
    command += ["-p", "xdist", "-n", str(workers)] if workers else []
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}  # as it is here, installed or not
    env.pop("PYTEST_ADDOPTS", None)
    began = time.perf_counter()
    done = subprocess.run(
        [*command, str(test)], env=env, cwd=bench.folder, capture_output=True, text=True, timeout=600, check=False
    )
    took = time.perf_counter() - began
    if done.returncode != 0 or f"{BOOTS} passed" not in done.stdout:
        raise SystemExit(f"the session failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return took
