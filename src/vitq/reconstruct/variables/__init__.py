"""What is learnt in a segment: weights, scales, biases, how weights are rounded."""
