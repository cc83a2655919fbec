"""The commands. A file is a command; `prep` and `train` hold the two groups."""
