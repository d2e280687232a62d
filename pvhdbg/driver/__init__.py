"""What a trace command runs: the choice of engine, the goal, the milestones, resets, and the result."""
