"""Compile the kernels once, without the GIL, and cache them where a cache folder is writable.

numba keeps compiled code next to the module and discards it when that module changes, but not when a function
that it calls changes in another module. Here one digest of all kernel sources keys the cache, so a stale
kernel can never produce outdated results.

numba itself is imported when a kernel is first called: this takes 0.6 s, and most commands end without one.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property, update_wrapper
from pathlib import Path
from threading import RLock
from typing import Any, Final, Generic, ParamSpec, TypeVar

import numpy as np

from genesis_toolkit.pipeline.progress import told_of_compiling

#: Integer constants for kernels, since mixing uint64 with signed numbers yields floats. HALF and LOW are the
#: number of bits in the lower half of a uint64, and their mask.
ZERO, ONE, TWO, THREE, FOUR, HALF = (np.uint64(number) for number in (0, 1, 2, 3, 4, 32))
LOW = np.uint64(0xFFFFFFFF)

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _sources_digest(folders: frozenset[Path]) -> str:
    """Return the sha256 over every Python source in `folders`, by name: the key of the compile cache."""
    digest = hashlib.sha256()
    for folder in sorted(folders):
        for source in sorted(folder.glob("*.py")):
            content = source.read_bytes()
            digest.update(f"{folder.name}/{source.name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


@cache
def _cache_class() -> Any:
    """Return the class of the compile cache of `Kernel`, defined late because its base comes from numba."""
    from numba.core.caching import FunctionCache, IndexDataCacheFile

    class SourcesCache(FunctionCache):
        """numba's compile cache, keyed by the sources of all kernels; losing it never stops a run."""

        def __init__(self, function: Callable[..., Any]) -> None:
            super().__init__(function)
            own = Path(function.__code__.co_filename).parent
            digest = _sources_digest(frozenset({Path(__file__).parent, own}))
            # The digest is in the file names too, not only in the stamp: numba writes the new index before
            # the new code, and a second process starting in between would run old code under the new stamp.
            self._cache_file = IndexDataCacheFile(
                cache_path=self._cache_path,
                filename_base=f"{self._impl.filename_base}-{digest[:12]}",
                source_stamp=(self._impl.locator.get_source_stamp(), digest),
            )

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            """Return compiled code from the cache, or None if there is none or it cannot be read."""
            found = None
            try:
                found = super().load_overload(sig, target_context)
            except Exception:  # unpickling a torn file can raise anything; recompiling repairs it
                with suppress(OSError):
                    self.flush()
            if found is None:
                for listener in told_of_compiling:
                    listener(self._py_func.__qualname__)
            return found

        def save_overload(self, sig: Any, data: Any) -> None:
            """Save compiled code; a full disk or a read-only folder costs only the cache."""
            try:
                super().save_overload(sig, data)
            except Exception:  # likewise: a torn index is read before it is written
                self.disable()

    return SourcesCache


class Kernel(Generic[P, R]):
    """A function that numba compiles on its first call, or when another kernel using it is compiled."""

    def __init__(self, function: Callable[P, R], forceinline: bool = False) -> None:
        self._function, self._forceinline = function, forceinline
        self._compiled: Any = None
        update_wrapper(self, function)

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        """Compile the function for arguments of these types, unless already done, and call it."""
        result: R = (self._compiled or self.compiled)(*arguments, **named)
        return result

    @property
    def compiled(self) -> Any:
        """Return numba's dispatcher, with a cache if its folder is writable."""
        with _making:  # otherwise concurrent threads would each create one, and compile twice
            if self._compiled is None:
                import numba

                compiler = numba.njit(nogil=True, error_model="numpy", forceinline=self._forceinline)
                made: Any = compiler(self._function)
                with suppress(RuntimeError, OSError):  # neither the package nor the home is writable
                    made._cache = _cache_class()(self._function)
                self._compiled = made
                _in_use.append(made)
            return self._compiled

    @property
    def _numba_type_(self) -> Any:
        """Return the numba type under which other kernels call it."""
        return self.compiled._numba_type_


class External:
    """A C function that kernels call by name.

    Args:
        name: name of its symbol in LLVM.
        result: name of its numba type, such as "intc".
        arguments: names of the types of its arguments.
    """

    def __init__(self, name: str, result: str, *arguments: str) -> None:
        self._name, self._types = name, (result, *arguments)

    @cached_property
    def _numba_type_(self) -> Any:
        """Return its numba type."""
        from numba import types

        result, *arguments = (getattr(types, name) for name in self._types)
        return types.ExternalFunction(self._name, result(*arguments))


_making: Final = RLock()
_in_use: Final[list[Any]] = []


def kept_in() -> tuple[int, list[Path] | None]:
    """Return how many functions this process compiled, and the folders that keep them.

    The folders are None where some function could not be kept.
    """
    caches = [made._cache for made in _in_use]
    kept = all(isinstance(one, _cache_class()) and one._enabled for one in caches)
    compiled = sum(made.stats.cache_misses.total() for made in _in_use)
    return compiled, sorted({Path(one.cache_path) for one in caches}) if kept else None


def kernel(function: Callable[P, R]) -> Kernel[P, R]:
    """Compile a function of plain loops with numba: no GIL, no parallel, no fast-math, cached if possible.

    Parallelism stays outside, over shards: `prange` aborts or hangs under threads and forks. Fast-math gains
    under 5 % and breaks bit-for-bit reproducibility. Division follows numpy (no exceptions).

    Args:
        function: a function that numba can compile, in a file of its own package.

    Returns:
        The function, compiled on its first call. Without a writable cache folder, each process does so.
    """
    return Kernel(function)


def inlined(function: Callable[P, R]) -> Kernel[P, R]:
    """Like `kernel`, but always inlined into other kernels, so that loops over it are vectorised.

    Meant for the random blocks in innermost loops: 0.09 ms per 32,768 blocks, against 0.59 ms with a call.
    """
    return Kernel(function, forceinline=True)
