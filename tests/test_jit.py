"""How kernels are compiled and cached."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from genesis_toolkit.pipeline import jit as compiling


def copy_of_two_modules(folder):
    """A package with `compiling.py` and a kernel that calls a kernel of another module."""
    package = folder / "kernels"
    package.mkdir()
    shutil.copy(Path(compiling.__file__), package / "compiling.py")
    (package / "__init__.py").write_text("")
    (package / "callee.py").write_text(
        "from kernels.compiling import kernel\n\n@kernel\ndef step(x):\n    return x + 1\n"
    )
    (package / "caller.py").write_text(
        "from kernels.callee import step\nfrom kernels.compiling import kernel\n\n"
        "@kernel\ndef twice(x):\n    return step(step(x))\n"
    )
    return package


PRINT = "from kernels.caller import twice; print(twice(10), sum(twice.compiled.stats.cache_hits.values()))"


def run(folder, code, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_cache_sees_an_edit_in_another_modules_callee(tmp_path):
    package = copy_of_two_modules(tmp_path)
    assert run(tmp_path, PRINT) == ["12", "0"]
    assert run(tmp_path, PRINT) == ["12", "1"]
    callee = package / "callee.py"
    callee.write_text(callee.read_text().replace("x + 1", "x + 5"))
    assert run(tmp_path, PRINT) == ["20", "0"]
    assert run(tmp_path, PRINT) == ["20", "1"]


def test_no_cache_folder_costs_the_cache_and_not_the_run(tmp_path):
    """A file stands where every cache folder would have to be made."""
    package = copy_of_two_modules(tmp_path)
    (package / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    home = str(tmp_path / "home")
    assert run(tmp_path, PRINT, HOME=home, XDG_CACHE_HOME=home) == ["12", "0"]
    assert run(tmp_path, PRINT, HOME=home, XDG_CACHE_HOME=home) == ["12", "0"]


def test_a_cache_that_fails_later_costs_the_cache_and_not_the_run(tmp_path):
    copy_of_two_modules(tmp_path)
    code = (
        "from numba.core.caching import IndexDataCacheFile\n"
        "def full(self, path): raise OSError(28, 'No space left on device')\n"
        "IndexDataCacheFile._open_for_write = full\n" + PRINT
    )
    assert run(tmp_path, code) == ["12", "0"]


def test_a_torn_cache_file_is_compiled_anew(tmp_path):
    package = copy_of_two_modules(tmp_path)
    assert run(tmp_path, PRINT) == ["12", "0"]
    for file in (package / "__pycache__").glob("*.nb?"):
        file.write_bytes(file.read_bytes()[:40])
    assert run(tmp_path, PRINT) == ["12", "0"]
    assert run(tmp_path, PRINT) == ["12", "1"]
