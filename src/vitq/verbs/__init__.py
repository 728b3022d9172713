"""What the longer verbs do with their arguments; ``vitq.api`` holds the arguments."""
