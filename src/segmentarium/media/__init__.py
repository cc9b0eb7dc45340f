"""Pictures and clips in and out: sources, files read and written in rows, and threads between them.  Imports no PyTorch."""
