"""Files of arrays: those of others, read without running code, and our own."""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from lgnn_jax.training.data import DataError

SUFFIXES = (".npy", ".npz")
# What reading raises where a file is cut short or holds something else.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError)


def read_arrays(path: Path, wanted: Collection[str] | None = None) -> dict[str, np.ndarray | None]:
    """Reads a .npy or an .npz file.

    Args:
      path: of the file.
      wanted: names of arrays to read; all if None.

    Returns:
      By name; None for those that are not wanted. The array of a .npy file has the file's name.

    Raises:
      DataError: in one line, for a file that is missing, damaged or of another kind, and for arrays
        of Python objects: to read them would run what the file says.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is neither a .npy or .npz file nor a folder with a run.")
    with _reading(path, str(path)), path.open("rb") as file:
        opened = np.load(file, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            return {path.stem: opened}
        found: dict[str, np.ndarray | None] = {}
        for name in opened.files:
            found[name] = None
            if wanted is None or name in wanted:
                with _reading(path, f"{path}: {name}"):
                    found[name] = opened[name]
                    if not isinstance(found[name], np.ndarray):
                        raise ValueError("no array")
    return found


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns an .npz file. Names are free, where `np.savez` takes "file" for its own argument.

    Example:
      >>> np.load(io.BytesIO(npz_bytes({"file": np.arange(3)})))["file"].tolist()
      [0, 1, 2]
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return content.getvalue()


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Makes one line of what goes wrong in reading a file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no file {path}.") from None
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except _DAMAGED as error:
        if "Python objects" in str(error) or "Object arrays" in str(error):
            raise DataError(
                f"{what} holds Python objects, which are not read, as they could run code: save "
                "numbers, or text as dtype=str."
            ) from None
        raise DataError(
            f"{what} cannot be read: it is damaged, or no {path.suffix} file."
        ) from None
