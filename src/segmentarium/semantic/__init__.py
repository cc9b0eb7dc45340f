"""Decoders on any backbone, and whole transformer segmenters.  One paper, one file."""
