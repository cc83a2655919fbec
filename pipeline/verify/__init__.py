"""Check that a store is what it was when it was made."""
