"""What a cluster sees: sbatch scripts to copy, and a real Slurm on one machine to try everything on."""
