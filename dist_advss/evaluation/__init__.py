"""Robust accuracy, image by image."""
