"""Rules turn decoded values into verdicts: one file per chapter of the specification, in its order."""
