"""How a tile program is laid onto a machine: the target, the schedule, and its choice."""
