"""Processes, devices, interrupts and the folder of a run."""
