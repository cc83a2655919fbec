"""The commands: one file per command; `prep` and `train` hold the two groups."""
