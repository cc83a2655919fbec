"""Stores -> batches: what feeds a network."""
