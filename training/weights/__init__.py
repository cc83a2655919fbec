"""Checkpoints and weights: read, written, handed to others."""
