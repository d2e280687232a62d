"""Expectations: conditions in a user's own file on the decoded fields of a boot."""
