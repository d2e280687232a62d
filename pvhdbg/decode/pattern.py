"""A regular expression of the user's for what a guest writes: compiled, or refused in words."""

from __future__ import annotations

import re
import warnings


class BadPattern(Exception):
    """The text is no regular expression; the message says why, in the words of `re`."""


def compiled(text: str) -> re.Pattern[str]:
    """The expression. Raises BadPattern."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read otherwise
            return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(str(error)) from None
