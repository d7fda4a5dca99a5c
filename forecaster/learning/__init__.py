"""Training: sequences from history, truncated BPTT, the solved readout."""
