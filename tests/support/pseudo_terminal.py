"""Two ends of a pseudo-terminal; where the machine has none, as in a chroot without /dev/pts, the test is skipped."""

import os

import pytest


def openpty() -> tuple[int, int]:
    """The leader's and the follower's file descriptor."""
    try:
        return os.openpty()
    except OSError as error:
        pytest.skip(f"no pty: {error.strerror}")
