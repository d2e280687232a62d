"""The flight recorder: a TCG plugin of QEMU, its build, and the mapped file that it writes."""
