"""Learning without labels, and with labels for every patch.  One paper, one file."""
