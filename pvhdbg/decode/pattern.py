"""Compile the user's regular expression for the guest's output, or refuse it with a reason."""

from __future__ import annotations

import re
import warnings


class BadPattern(Exception):
    """The text is not a regular expression; the message is that of `re`."""


def compiled(text: str) -> re.Pattern[str]:
    """The expression. Raises BadPattern."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FutureWarning: syntax whose meaning may change in a later Python
            return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(str(error)) from None
