"""Data sets in .beton files, FFCV's format: writing, finding, reading and decoding them."""
