"""What label images mean, wherever they are read, learned from or scored."""

IGNORE_INDEX = 255  # a pixel that belongs to no class and counts nowhere
