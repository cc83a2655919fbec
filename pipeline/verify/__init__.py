"""Checks that a store is unchanged since it was made."""
