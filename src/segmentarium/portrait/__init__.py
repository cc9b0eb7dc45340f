"""Portrait networks.  One paper, one file."""
