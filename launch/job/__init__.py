"""The code that runs inside a Slurm job: preflight, the stage, and then its end or a requeue."""
