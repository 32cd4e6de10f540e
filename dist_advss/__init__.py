"""Robust vision models from unlabelled images: adversarial self-supervised pre-training at cluster scale."""

from .runs.frames import Runs, load_runs

__all__ = ["Runs", "load_runs"]
__version__ = "0.1.0"
