"""The process in which cells are booted, one after the other; `sweep.worker` starts it."""

from __future__ import annotations

from pvhdbg.sweep.boot import booted
from pvhdbg.sweep.serving import main

if __name__ == "__main__":
    main(booted)
