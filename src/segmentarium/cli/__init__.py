"""One file a verb; each only calls the library's own functions."""
