"""Findings from the results of a launch: effects, claims of the paper, costs, sweeps and transfers."""
