"""Whom a gdbstub's socket belongs to, and its command line: so that a log that QEMU keeps for its user is put back as it was."""

from __future__ import annotations

import os
import socket
import struct

_COMMAND_BOUND = 1 << 20  # bytes of a command line
_SOCKETS = 4096  # descriptors that are looked at


def peer_of(connection: socket.socket) -> int | None:
    """The process that listens at the other end of a unix socket (SO_PEERCRED); None where that cannot be learnt."""
    if connection.family != socket.AF_UNIX:
        return None
    try:
        pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    except OSError:
        return None
    return pid or None


def command_of(pid: int | None) -> tuple[str, ...]:
    """The command line of a process, as the kernel shows it; empty where that cannot be learnt."""
    if pid is None:
        return ()
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_COMMAND_BOUND).split(b"\0")
    except OSError:
        return ()  # it is somebody else's, or in another PID namespace
    return tuple(word.decode("utf-8", "surrogateescape") for word in words[:-1])


def files_of(pid: int | None) -> tuple[str, ...]:
    """What a process has open, as the kernel names it; empty where that cannot be learnt."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd")[:_SOCKETS] if pid is not None else ():
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass  # it is somebody else's, or has closed one meanwhile
    return tuple(found)


def command_behind(path: str) -> tuple[str, ...]:
    """The command line behind a connection of this process to the unix socket `path`, whoever in it opened that."""
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")[:_SOCKETS]]
    except OSError:
        return ()
    for descriptor in descriptors:
        try:
            borrowed = socket.socket(fileno=descriptor)
        except OSError:
            continue  # it is not a socket, or is closed by now
        try:
            if borrowed.family == socket.AF_UNIX and borrowed.getpeername() == path:
                return command_of(peer_of(borrowed))
        except OSError:
            continue  # it is not connected
        finally:
            borrowed.detach()  # it belongs to whoever opened it
    return ()
