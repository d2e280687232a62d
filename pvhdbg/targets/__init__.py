"""How to reach a machine. Foreign errors stop here: callers see TargetErrors only."""
