"""What a process for cells does: it reads a task from a socket, a line of JSON, and writes the result, a line of JSON.

When the other end is closed it ends at once, also in the middle of a boot; the guardian of that boot then ends QEMU.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from pvhdbg import leaving
from pvhdbg.sweep.cell import CellTask
from pvhdbg.sweep.result import CellResult


def main(work: Callable[[CellTask], CellResult]) -> None:
    """Do the work for each task that comes by the socket whose number is the program's argument."""
    with socket.socket(fileno=int(sys.argv[1])) as end:
        leaving.catch()
        tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(end, tasks), daemon=True).start()
        while True:
            result = work(CellTask.of(tasks.get()))
            end.sendall(json.dumps(result.document()).encode() + b"\n")


def _listen(end: socket.socket, tasks: queue.SimpleQueue[dict[str, Any]]) -> None:
    try:
        with end.makefile("rb") as lines:
            for line in lines:
                tasks.put(json.loads(line))
    finally:  # the sweep is gone: at the end of the input, or ECONNRESET where it left a result unread
        os._exit(1)
