"""Stores to and from others: archives, merged stores, the authors' .npy files."""
