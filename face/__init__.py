"""The Genesis Toolkit: training data for Models Genesis, prepared once, and training from it."""

from genesis_toolkit.pipeline.version import __version__

__all__ = ["__version__"]
