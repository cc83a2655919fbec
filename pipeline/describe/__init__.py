"""Describes a store for people and for programs: facts, dataset card, Croissant file."""
