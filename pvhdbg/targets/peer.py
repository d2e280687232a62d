"""The process behind a gdbstub's socket, and its command line, which names the user's own log that must be restored."""

from __future__ import annotations

import os
import socket
import struct

_COMMAND_BOUND = 1 << 20  # bytes of a command line
_SOCKETS = 4096  # descriptors that are checked


def peer_of(connection: socket.socket) -> int | None:
    """The process that listens at the other end of a unix socket (SO_PEERCRED); None where it is unknown."""
    if connection.family != socket.AF_UNIX:
        return None
    try:
        pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    except OSError:
        return None
    return pid or None


def command_of(pid: int | None) -> tuple[str, ...]:
    """The command line of a process, as the kernel shows it; empty where it cannot be read."""
    if pid is None:
        return ()
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_COMMAND_BOUND).split(b"\0")
    except OSError:
        return ()  # it belongs to another user, or is in another PID namespace
    return tuple(word.decode("utf-8", "surrogateescape") for word in words[:-1])


def files_of(pid: int | None) -> tuple[str, ...]:
    """The open files of a process, as the kernel names them; empty where they cannot be read."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd")[:_SOCKETS] if pid is not None else ():
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass  # it belongs to another user, or has closed a file meanwhile
    return tuple(found)


def command_behind(path: str) -> tuple[str, ...]:
    """The command line of the peer of this process's connection to the unix socket `path`."""
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")[:_SOCKETS]]
    except OSError:
        return ()
    for descriptor in descriptors:
        try:
            held = socket.socket(fileno=descriptor)
        except OSError:
            continue  # not a socket, or closed by now
        try:
            if held.family == socket.AF_UNIX and held.getpeername() == path:
                return command_of(peer_of(held))
        except OSError:
            continue  # it is not connected
        finally:
            held.detach()  # its opener owns the descriptor
    return ()
