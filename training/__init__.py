"""Batches in, weights out. Nothing here imports click, and nothing here prints."""
