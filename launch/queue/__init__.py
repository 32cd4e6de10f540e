"""Submission of stages to Slurm: batches, scripts, the journal, and Slurm's commands."""
