"""A campaign: healthy guests are watched by `why`, which must accuse none of them. Not installed with pvhdbg."""
