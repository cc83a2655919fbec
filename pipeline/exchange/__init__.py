"""Exchanges stores: archives, merged stores, the authors' .npy files."""
