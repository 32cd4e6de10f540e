"""Robust accuracy with a verdict for every image, and transfer between models."""
