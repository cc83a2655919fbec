"""Makes target stores: labelled cubes for the target tasks (METHOD.md section 6)."""
