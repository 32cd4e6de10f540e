"""The training loop and what keeps it honest: schedules, validation, checkpoints, interruption."""
