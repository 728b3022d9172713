"""What a recipe works on: the run, its steps, its checkpoints, its log and its progress."""
