"""A machine from its entry on: what a user named, the capture of its entry, the session from stop to stop, names for addresses."""
