"""Deaths that are planted in guests: `why` must name the cause, the place and a step that fits of each. Not installed with pvhdbg."""
