"""Expectations: what a user's own file says of a boot, in the names of what is decoded."""
