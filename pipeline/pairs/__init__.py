"""Cube store -> pair store."""
