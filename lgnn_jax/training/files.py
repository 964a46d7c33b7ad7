"""Files that are on disk once they are written, and never half written."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

# What a file system says that cannot wait for its disk, of a cloud drive, say, or of a folder.
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


def replace_text(path: Path, text: str) -> None:
    """Writes a file of text whole or not at all.

    Raises:
      OSError: if it cannot be written; what was there before is as it was.
    """
    _replace(path, lambda beside: beside.write_text(text))


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
      OSError: if it cannot be written; what was there before is as it was.
    """
    _replace(path, lambda beside: beside.write_bytes(content))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside another one, whose place it takes once it is on disk."""
    beside = path.with_name(path.name + ".tmp")
    write(beside)
    sync(beside)
    os.replace(beside, path)


def sync(path: Path) -> None:
    """Waits until a file or folder is on disk, where the system knows how to.

    Raises:
      OSError: if it is not: some file systems tell only here that they are full.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    finally:
        os.close(descriptor)
