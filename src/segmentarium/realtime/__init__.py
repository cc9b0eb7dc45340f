"""Whole real-time networks.  One paper, one file."""
