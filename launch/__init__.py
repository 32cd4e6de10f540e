"""Experiments as graphs of stages, run on this machine or on Slurm."""
