"""Fitting: from training sequences to the weights of a checkpoint, by truncated BPTT and by solved readouts."""
