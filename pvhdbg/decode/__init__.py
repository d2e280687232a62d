"""Bytes and text become values. Pure: a decoder that lacks memory says which, and is called again."""
