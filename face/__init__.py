"""The Genesis Toolkit: prepare training data for Models Genesis once, share it, and train on it.

    import genesis_toolkit as gt

    gt.extract_cubes("LUNA16", "cubes.zarr", progress=True)
    gt.degrade_cubes("cubes.zarr", "pairs.zarr", progress=True)
    degraded, original = gt.open_store("pairs.zarr")[0]

Every name is loaded on first use, so importing the package is cheap. `__init__.pyi` lists the names and the
modules that define them, for this file and for type checkers.
"""

from typing import Any

import lazy_loader

from genesis_toolkit.pipeline.version import __version__ as __version__

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "scipy"):
            raise ModuleNotFoundError(
                f'genesis_toolkit.{name} needs {error.name}: pip install "genesis-toolkit[train]".',
                name=error.name,
            ) from None
        raise
