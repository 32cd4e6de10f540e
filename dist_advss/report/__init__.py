"""From run folders to something a person reads: one self-contained HTML page, and a table for the terminal."""
