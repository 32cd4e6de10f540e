"""A real Slurm on this machine: a controller, accounting with MariaDB, and four nodes with four GPU slots each.

    python -m slurm.devcluster up [FOLDER]      make slurm-up
    python -m slurm.devcluster down [FOLDER]    make slurm-down

Everything lives in one folder: configuration, keys, logs, the data base. The system's own configuration is neither read
nor written. It needs root and Debian's packages (installed on the way where apt-get is there); standard library only.
"""
