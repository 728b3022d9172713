"""Which segments are reconstructed, in which order."""
