"""A machine from its entry on: the subject, the capture of its entry, the session from stop to stop, names for addresses."""
