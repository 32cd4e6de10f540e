"""For clusters: sbatch scripts and profiles to copy, and a real Slurm on one machine to try them on."""
