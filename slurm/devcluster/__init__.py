"""A real Slurm on this machine: a controller, accounting with MariaDB, and four nodes with four GPU slots each.

    python -m slurm.devcluster up [FOLDER]      make slurm-up
    python -m slurm.devcluster down [FOLDER]    make slurm-down

Everything is in one folder: configuration, keys, logs, the database. It does not read or write the system's own configuration.
It needs root and Debian's packages, which it installs if the machine has apt-get. It uses the standard library only.
"""
