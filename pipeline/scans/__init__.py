"""Reads a folder of files as scans in HU, and X-ray images in grey levels."""
