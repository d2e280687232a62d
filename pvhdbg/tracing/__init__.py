"""What the CPU did after the entry: events, milestones, deaths, the saved trace. Pure, but for `engines/`, which observe."""
