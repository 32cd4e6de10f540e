"""Readers of the known sets of images."""
