"""Boxes in the point clouds of lidars, with and without a map of the place.  One paper, one file."""
