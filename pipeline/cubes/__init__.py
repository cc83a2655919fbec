"""Scans -> cube store."""
