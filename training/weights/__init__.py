"""Checkpoints and weights: read them, write them, export them."""
