"""Weights that PyTorch saved, read without PyTorch.

`torch.save` writes a pickle that says which tensors there are, and their numbers beside it.
Python's `pickle` runs whatever functions a file names. Here a few instructions are carried out
instead, on plain values, and a file that asks for anything else is refused.
"""

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "torch BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch BoolStorage": np.dtype(np.bool_),
    "torch ByteStorage": np.dtype(np.uint8),
    "torch CharStorage": np.dtype(np.int8),
    "torch DoubleStorage": np.dtype(np.float64),
    "torch FloatStorage": np.dtype(np.float32),
    "torch HalfStorage": np.dtype(np.float16),
    "torch IntStorage": np.dtype(np.int32),
    "torch LongStorage": np.dtype(np.int64),
    "torch ShortStorage": np.dtype(np.int16),
}
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the first pickle of the older format


class _Refused(ValueError):
    """A file that may be whole, and is not read; the message goes on from the file's path."""


class _Storage(NamedTuple):
    """A row of numbers in the file, which tensors may share."""

    dtype: np.dtype
    key: str
    count: int


class _Tensor(NamedTuple):
    """A tensor whose numbers are not read yet; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch file, by name, without PyTorch and without running its code.

    Both formats of `torch.save` are read: the zip archive, and the row of pickles from before
    PyTorch 1.6. Arrays have the shapes and dtypes of the tensors, bfloat16 among them. Each is a
    copy, also where tensors shared their numbers.

    Args:
      path: a file with a dict of tensors, as `torch.save(module.state_dict(), path)` writes it, or
        a training checkpoint that holds one as its "state_dict".

    Returns:
      Arrays by name, in the order of the file.

    Raises:
      OSError: if the file cannot be opened.
      ValueError: in one line that begins with the path, for a file that is damaged, is not one of
        PyTorch's, holds something else, or names a function that no dict of tensors needs.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "weights.pth")
      ...     _ = path.write_text("<html>Not found</html>")
      ...     try:
      ...         read_state_dict(path)
      ...     except ValueError as error:
      ...         print(str(error).removeprefix(folder))
      /weights.pth is damaged or not a PyTorch file (at position 0, opcode b'<' unknown).
    """
    data = Path(path).read_bytes()
    try:
        return _of_zip(data) if data[:2] == b"PK" else _of_pickles(data)
    except _Refused as refusal:
        raise ValueError(f"{path} {refusal}") from None
    except Exception as error:  # of bytes that may be anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is damaged or not a PyTorch file ({reason}).") from None


def _of_zip(data: bytes) -> dict[str, np.ndarray]:
    """Reads an archive: `<name>/data.pkl`, and each storage as `<name>/data/<key>`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        folders = [x.removesuffix("data.pkl") for x in names if x.endswith("/data.pkl")]
        if len(folders) != 1:
            raise _Refused("is a zip archive without a data.pkl: not a file of torch.save.")

        def content(name: str) -> bytes:
            entry = archive.getinfo(folders[0] + name)
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _Refused(f"has a compressed {name!r}, which torch.save does not write.")
            return archive.read(entry)

        if f"{folders[0]}byteorder" in names:
            _require_little_endian(content("byteorder") == b"little")
        tensors = _tensors(_unpickle(io.BytesIO(content("data.pkl"))))
        return {
            name: _array(tensor, content(f"data/{tensor.storage.key}"))
            for name, tensor in tensors.items()
        }


def _of_pickles(data: bytes) -> dict[str, np.ndarray]:
    """Reads a magic number, version, machine, the tensors, the storages' keys, and the storages."""
    file = io.BytesIO(data)
    if _unpickle(file) != _MAGIC_NUMBER:
        raise _Refused("is a pickle, but not a file of torch.save.")
    _unpickle(file)
    _require_little_endian(_unpickle(file)["little_endian"])
    storages = {}
    tensors = _tensors(_unpickle(file, lambda storage: storages.setdefault(storage.key, storage)))
    contents = {}
    for key in _unpickle(file):
        if not isinstance(key, str):
            raise ValueError("a storage without a name")
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].count:
            raise ValueError(f"storage {key} has {count} numbers, not {storages[key].count}")
        contents[key] = file.read(count * storages[key].dtype.itemsize)
    return {name: _array(tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _require_little_endian(little: bool) -> None:
    if not little:
        raise _Refused("was written on a big-endian machine; little-endian files are read.")


def _tensors(found: Any) -> dict[str, _Tensor]:
    """The tensors by name, of a dict of them or of the "state_dict" of a checkpoint."""
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise _Refused(f"holds a {type(found).__name__.strip('_')}, not a dict of tensors.")
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, _Tensor)):
            kind = type(value).__name__.strip("_")
            raise _Refused(
                f"holds {name!r} ({kind}), where a tensor with a name is expected: save the "
                "state_dict alone, or under the name 'state_dict'."
            )
    return found


def _array(tensor: _Tensor, content: bytes) -> np.ndarray:
    """A tensor's numbers out of those of its storage."""
    (dtype, key, count), offset, shape, strides = tensor
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"storage {key} has {len(content)} bytes, not {count * dtype.itemsize}")
    last = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    end = offset + last + 1 if math.prod(shape) else 0
    if min((offset, *shape, *strides)) < 0 or end > count:
        raise ValueError(f"a tensor ends at {end} in storage {key} of {count} numbers")
    row = np.frombuffer(content, dtype)[offset:]
    strides = [stride * dtype.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(row, shape, strides).copy()


def _unpickle(file: io.BytesIO, note: Callable[[_Storage], Any] = lambda storage: None) -> Any:
    """Carries out a pickle up to its end; of functions, those that make dicts and tensors alone.

    Args:
      file: at the pickle's first byte.
      note: told of each storage.
    """
    stack, marks, memo = [], [], {}

    def from_mark() -> list:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    def last(count: int) -> list:
        if count > len(stack):
            raise ValueError("an instruction without operands")
        marks.append(len(stack) - count)
        return from_mark()

    def store(items: list) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise _Refused(f"has a {type(key).__name__} as a key; names are expected.")
            stack[-1][key] = value

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(from_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                (item,) = last(1)
                stack[-1].append(item)
            case "APPENDS":
                items = from_mark()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                store(last(2))
            case "SETITEMS":
                store(from_mark())
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allowed(argument))
            case "STACK_GLOBAL":
                stack.append(_allowed(" ".join(last(2))))
            case "REDUCE":
                stack.append(_called(*last(2)))
            case "BINPERSID":
                stack.append(_storage(*last(1)))
                note(stack[-1])
            case "BUILD":  # what hangs on a dict besides its items: versions of modules
                last(1)
            case "STOP":
                return stack.pop()
            case name:
                raise _Refused(f"has the pickle instruction {name}: not a dict of tensors.")
    raise ValueError("a pickle without an end")


class _Name(str):
    """Of a function or class that a file may name."""


def _allowed(name: str) -> _Name:
    if name not in _DTYPES and name not in _CALLABLE:
        raise _Refused(
            f"asks for {name.replace(' ', '.')!r}, which is refused, and nothing was run: save a "
            "dict of dense tensors, such as module.state_dict()."
        )
    return _Name(name)


def _called(function: Any, arguments: tuple) -> Any:
    if not isinstance(function, _Name):
        raise ValueError("a call of what is no function")
    return _CALLABLE[function](*arguments)


def _tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return _Tensor(storage, offset, shape, strides)


# What a file may call, and what stands in for it.
_CALLABLE = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
}


def _storage(identity: tuple) -> _Storage:
    """A storage as a file refers to it: kind, type, key, device, size; in the older one a view."""
    kind, name, key, _, count, *view = identity
    known = isinstance(name, _Name) and name in _DTYPES and isinstance(key, str)
    if kind != "storage" or not known or any(view):
        raise ValueError("a reference to what is no storage")
    return _Storage(_DTYPES[name], key, count)
