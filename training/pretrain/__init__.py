"""Pre-training: degraded cubes in, restored cubes out."""
