"""The proof that a file computes what the simulation computes."""
