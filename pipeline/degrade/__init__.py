"""Degrades cubes. Pure: arrays in, arrays out."""
