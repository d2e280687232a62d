"""The CPU's execution after the entry: events, milestones, deaths, the saved trace. Pure, except for `engines/`."""
