"""Robust vision models from unlabelled images: adversarial self-supervised pre-training at cluster scale."""

__version__ = "0.1.0"
