"""How stages get into the queue of a Slurm cluster."""
