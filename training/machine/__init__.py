"""Processes, devices, interruptions and the folder of a run."""
