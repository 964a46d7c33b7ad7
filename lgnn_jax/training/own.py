"""What a config names and the library does not have: a function in a Python file of one's own."""

import functools
import hashlib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_file(name: str) -> bool:
    """Returns whether a config's field names a Python file."""
    return name.endswith(".py")


def digest(file: str) -> str:
    """Returns the SHA-256 of a file, or "missing"."""
    path = Path(file)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


@functools.cache
def load(file: str, name: str) -> Callable[..., Any]:
    """Runs a Python file, once a process, and returns the function of that name that it defines.

    Raises:
      ValueError: if there is no such file, it fails, or it defines no such function.
    """
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file!r}.")
    try:
        found = runpy.run_path(file).get(name)
    except Exception as error:
        raise ValueError(f"{file}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"{file} must define a function {name}, got {found!r:.80}.")
    return found
