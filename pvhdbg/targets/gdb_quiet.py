"""Hide the stops of our own runs from GDB's terminal. Imported only in GDB's own Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import gdb


@contextmanager
def silence() -> Iterator[None]:
    """Suppress GDB's messages about stops, which go to the terminal even where a command's output is captured."""
    name = "suppress-cli-notifications"
    try:
        before = gdb.parameter(name)
        gdb.execute(f"set {name} on")
    except (gdb.error, RuntimeError):  # GDB 12 does not have it
        yield
        return
    try:
        yield
    finally:
        gdb.execute(f"set {name} {'on' if before else 'off'}")


@contextmanager
def untraced() -> Iterator[None]:
    """`set trace-commands on` writes each command that a script executes into its output: off for what we execute ourselves."""
    if not gdb.parameter("trace-commands"):
        yield
        return
    _said("set trace-commands off")
    try:
        yield
    finally:
        _said("set trace-commands on")


@contextmanager
def muted() -> Iterator[None]:
    """No output reaches the terminal: no setting stops GDB's message about a SIGINT, and an engine may stop a guest many times."""
    if "TUI is active" in _said("info win"):  # it draws on the terminal by itself
        yield
        return
    gdb.flush()
    terminal, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        gdb.flush()
        os.dup2(terminal, 1)
        os.close(sink)
        os.close(terminal)


def _said(command: str) -> str:
    try:
        return gdb.execute(command, False, True)
    except gdb.error:
        return ""
