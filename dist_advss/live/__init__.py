"""Live views of runs for a terminal."""
