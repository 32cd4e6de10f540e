"""Converts checkpoints of other projects into run folders."""
