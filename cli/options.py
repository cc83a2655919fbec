"""What commands take: kinds of values, options that several commands share, and their groups in --help."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from genesis_toolkit.cli.output import AS_JSON
from genesis_toolkit.pipeline.errors import CallError
