"""Packages that only some commands need: looked for before anything is begun."""

import os
from importlib.util import find_spec

from genesis_toolkit.pipeline.errors import CallError


def check_installed(doing: str, extra: str, *packages: str) -> None:
    """Refuse to begin without a package, and let torch's threads wait as is best for it.

    Raises:
        CallError: one is not installed; the sentence says how to install it.
    """
    # torch's threads wait by spinning, and where others work on the same cores every wait becomes a long one:
    # epochs took ten times as long beside two busy processes. Must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for package in packages:
        if find_spec(package) is None:
            raise CallError(
                f'{doing} needs {package}: install it with pip install "genesis-toolkit[{extra}]".'
            )
