"""The process in which cells are booted, one after the other: `python -m pvhdbg.sweep.child FD`."""

from __future__ import annotations

from pvhdbg.sweep.boot import booted
from pvhdbg.sweep.serving import main

if __name__ == "__main__":
    main(booted)
