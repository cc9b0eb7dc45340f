"""From descriptors to geometry: matches in bounded memory, homographies and essential matrices, files for other programs."""
