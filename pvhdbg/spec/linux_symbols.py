"""Symbols of Linux that commands look up. A stripped kernel's own table is searched name by name, so all of these are looked up at once."""

from __future__ import annotations

MILESTONES = ("x86_64_start_kernel", "i386_start_kernel", "start_kernel", "rest_init")
PANICS = ("panic", "vpanic")  # kernel/panic.c; vpanic has the body from 6.16 on
ORC = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind")
LOG_RING, LOG_BUFFER = "prb", "__log_buf"  # kernel/printk/printk.c: since 5.10, and before
TOGETHER = (*MILESTONES, *PANICS, *ORC, LOG_RING, LOG_BUFFER)
