"""The flight recorder: a TCG plugin of QEMU, how it is built and loaded, and the mapped file that it writes."""
