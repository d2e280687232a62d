"""How one asks: thin mounts of the same verbs. Only these modules print."""
