"""Networks that find points: joints of bodies.  One paper, one file."""
