"""Decoders turn bytes and text into values. They do no I/O: a decoder that needs more memory returns the range, and is called again."""
