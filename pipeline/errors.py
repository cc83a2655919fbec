"""The two ways a command can fail, distinguished by what the user has to fix."""


class CallError(ValueError):
    """The call itself was wrong: an option out of range, a missing folder, a store in the way (exit 2)."""


class DataError(RuntimeError):
    """A scan or a store cannot be read, is damaged, or yields nothing (exit 1)."""
