"""The report of a launch: one self-contained HTML page."""
