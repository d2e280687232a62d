"""The GDB remote serial protocol without I/O: bytes in, packets and values out (GDB manual, appendix E)."""
