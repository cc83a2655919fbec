"""Options, exit codes and printing, nothing else: `genesis-prep` is in `prep`, `genesis-train` in `train`.

A command turns its options into the library's parameters, calls the library function of the same name, and
prints what came back. Heavy libraries are imported inside the commands, so that `--help` answers at once.
"""
