"""Values become verdicts: one file per chapter of the specification, in its order."""
