"""What a config names and the library does not have: a function in a Python file of one's own."""

import contextlib
import functools
import hashlib
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def is_file(name: str) -> bool:
    """Returns whether a config's field names a Python file."""
    return name.endswith(".py")


def digest(file: str) -> str:
    """Returns the SHA-256 of a file, or "missing"."""
    path = Path(file)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def call(file: str, name: str, *args: Any) -> Any:
    """Returns what a function in a Python file returns.

    The file is run once a process, and may import others in its folder.

    Raises:
      ValueError: if there is no such file, or it or its function fails, in one line; or if it
        defines no such function.
    """
    function = load(file, name)
    with _naming(f"{file}, {name}"):
        return function(*args)


@functools.cache
def load(file: str, name: str) -> Callable[..., Any]:
    """Runs a Python file and returns a function that it defines; raises as `call`."""
    path = Path(file)
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ValueError(f"there is no file {file!r}{where}.")
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with _naming(file):
            found = runpy.run_path(file).get(name)
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise ValueError(f"{file} defines no function {name}.")
    return found


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Makes one line of whatever a user's code raises, or of its wish to end the process."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{what}: {type(error).__name__}: {text}") from error
