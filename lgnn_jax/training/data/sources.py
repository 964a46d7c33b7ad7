"""Images: from a source to uint8 arrays in memory."""

import contextlib
import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lgnn_jax.maps.words import did_you_mean

_CHUNK = 1000  # examples decoded at a time, so that they are not all in memory twice
_CIFAR = ("cifar10", "cifar100")  # can be prepared here, see cifar.py
_CIFAR_TRAIN_COUNT = 50_000


class DataError(Exception):
    """A data set that cannot be had, or is not what image classification needs; one clear line."""


class Info(NamedTuple):
    """What is known of a data set before its images are read."""

    image_shape: tuple[int, int, int]  # height, width, channels
    class_names: tuple[str, ...]
    train_count: int


@dataclass(frozen=True)
class Dataset:
    """An image classification data set in memory.

    Attributes:
      name: of the source.
      train_images: uint8 `(n, height, width, channels)`.
      train_labels: int32 `(n,)`, in [0, number of classes).
      test_images: uint8, as `train_images`.
      test_labels: int32, as `train_labels`.
      class_names: one for each label.

    Raises:
      DataError: if an array's shape or type, or a label, does not fit.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self):
        """Checks what the attributes promise."""
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            where = f"data set {self.name!r}, {split} split"
            if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
                raise DataError(
                    f"{where}: images must be uint8 (n, height, width, channels), n >= 1, "
                    f"got {images.dtype} {images.shape}."
                )
            if images.shape[1:] != self.train_images.shape[1:]:
                raise DataError(
                    f"{where}: images of shape {images.shape[1:]} differ from the training images' "
                    f"{self.train_images.shape[1:]}."
                )
            if labels.shape != images.shape[:1]:
                raise DataError(f"{where}: {len(images)} images, but labels {labels.shape}.")
            wrong = labels[(labels < 0) | (labels >= len(self.class_names))]
            if wrong.size:
                raise DataError(
                    f"{where}: label {wrong[0]} is out of range, there are "
                    f"{len(self.class_names)} classes."
                )

    @property
    def info(self) -> Info:
        """What can be known without the images."""
        return Info(self.train_images.shape[1:], tuple(self.class_names), len(self.train_images))


def describe(
    name: str, data_dir: str | os.PathLike | None = None, *, train_images: int | None = None
) -> Info:
    """Tells what `load` with the same arguments would read, without reading or downloading it.

    Raises:
      DataError: see `load`; also for a set that is not prepared, unless it is CIFAR.

    Example:
      >>> describe("digits").image_shape
      (32, 32, 1)
    """
    if name == "digits":
        return load(name, train_images=train_images).info
    builder = _builder(name, data_dir)
    image_key, label_key = _keys(builder)
    if builder.is_prepared():
        count = builder.info.splits["train"].num_examples
    elif name in _CIFAR:
        count = _CIFAR_TRAIN_COUNT
    else:
        raise _not_prepared(builder)
    features = builder.info.features
    kept = _kept(name, count, train_images)
    return Info(features[image_key].shape, tuple(features[label_key].names), kept)


def load(
    name: str, data_dir: str | os.PathLike | None = None, *, train_images: int | None = None
) -> Dataset:
    """Reads a data set into memory.

    Args:
      name: "digits" (scikit-learn's handwritten digits; needs no file) or the name of a
        tensorflow-datasets image classification set with "train" and "test" splits. No TensorFlow
        is needed to read a prepared copy in the array_record format. "cifar10" and "cifar100" are
        downloaded and prepared where no copy is found.
      data_dir: where prepared copies lie, a folder; tensorflow-datasets' own default if None.
      train_images: keep that many training images, drawn once for all runs; all if None.

    Raises:
      DataError: for a set that is unknown, neither prepared nor reachable, whose images differ in
        size, or that has fewer than `train_images` images; for CIFAR in a folder that is not there.

    Example:
      >>> load("digits").train_images.shape
      (1437, 32, 32, 1)
    """
    train, test, class_names = _digits() if name == "digits" else _tfds(name, data_dir)
    keep = np.arange(train.count)
    if _kept(name, train.count, train_images) < train.count:
        keep = np.random.default_rng(0).permutation(train.count)[:train_images]
    return Dataset(name, *train.read(keep), *test.read(np.arange(test.count)), class_names)


class _Split(NamedTuple):
    """Examples that are not read yet."""

    count: int
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # indices -> images, labels


def _digits() -> tuple[_Split, _Split, tuple[str, ...]]:
    # scikit-learn takes a second to import: only those who train on its digits wait for it.
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    large = zoom(digits.images, (1, 4, 4), order=1, mode="nearest", grid_mode=True)
    images = np.rint(large * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=labels, random_state=0
    )

    def split(members):
        return _Split(len(members), lambda keep: (images[members[keep]], labels[members[keep]]))

    return split(train), split(test), tuple(str(name) for name in digits.target_names)


def _tfds(name: str, data_dir: str | os.PathLike | None) -> tuple[_Split, _Split, tuple[str, ...]]:
    builder = _builder(name, data_dir)
    image_key, label_key = _keys(builder)
    if not builder.is_prepared() and name in _CIFAR:
        from lgnn_jax.training.data import cifar

        if data_dir is not None and not os.path.isdir(data_dir):
            raise DataError(
                f"there is no folder {data_dir} to read {name!r} from or to prepare it in: make "
                "it, or name another with --data-dir."
            )
        try:
            cifar.prepare(name, data_dir)
        except cifar.DatasetError as error:
            raise DataError(
                f"data set {name!r} is not in {builder.data_dir_root}; name the folder of a "
                f"prepared copy with --data-dir. {error}"
            ) from error
        builder = _builder(name, data_dir)
    if not builder.is_prepared():
        raise _not_prepared(builder)
    if builder.info.file_format.value != "array_record":
        raise DataError(
            f"data set {name!r} at {builder.data_path} is in the {builder.info.file_format.value} "
            "format; without TensorFlow it must be in --file_format=array_record."
        )
    splits = builder.info.splits
    if missing := {"train", "test"} - set(splits):
        raise DataError(f"data set {name!r} has no {missing.pop()!r} split, only {list(splits)}.")
    image = builder.info.features[image_key]

    def split(which):
        with _readable(name, builder.data_path):
            source = builder.as_data_source(which)

        def read(keep):
            with _readable(name, builder.data_path):
                return decode(keep)

        def decode(keep):
            images = _empty_aligned((len(keep), *image.shape))
            labels = np.empty(len(keep), np.int32)
            for start in range(0, len(keep), _CHUNK):
                rows = keep[start : start + _CHUNK].tolist()
                for i, example in enumerate(source.__getitems__(rows), start=start):
                    images[i], labels[i] = example[image_key], example[label_key]
            return images, labels

        return _Split(len(source), read)

    return split("train"), split("test"), tuple(builder.info.features[label_key].names)


def _empty_aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a uint8 array on a boundary of 64 bytes: a CPU device shares it instead of a copy."""
    memory = np.empty(math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + math.prod(shape)].reshape(shape)


def _builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    import tensorflow_datasets as tfds

    # tfds warns at every start that OpenCV would decode faster.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\d.*]+)?", name):
            raise tfds.core.DatasetNotFoundError
        with _readable(name, data_dir):
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        raise DataError(f"unknown data set {name!r}{did_you_mean(name, known)}") from None


@contextlib.contextmanager
def _readable(name: str, folder: Any):
    """Turns whatever tfds raises for a copy that it cannot read into a DataError."""
    import tensorflow_datasets as tfds

    try:
        yield
    except (DataError, tfds.core.DatasetNotFoundError):
        raise
    except Exception as error:  # of tfds, its parsers and its file formats: of any class
        cause = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"data set {name!r} cannot be read from {folder or 'the default folder'}: "
            f"{type(error).__name__}: {cause:.200}"
        ) from error


def _keys(builder: Any) -> tuple[str, str]:
    """Names the image and the label of a data set's examples, if it is what `load` can read."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    image, label = features.get(image_key), features.get(label_key)
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise DataError(
            f"data set {builder.name!r} is not for image classification: it has {list(features)}."
        )
    if None in image.shape or image.np_dtype != np.uint8:
        raise DataError(
            f"data set {builder.name!r} has images of mixed size or another type (shape "
            f"{image.shape}, {np.dtype(image.np_dtype)}); they must be uint8 and share one size."
        )
    return image_key, label_key


def _kept(name: str, count: int, train_images: int | None) -> int:
    if train_images is not None and train_images > count:
        raise DataError(f"data set {name!r} has {count} training images, not {train_images}.")
    return train_images or count


def _not_prepared(builder: Any) -> DataError:
    return DataError(
        f"data set {builder.name!r} is not prepared at {builder.data_path}: name the folder of a "
        "prepared copy with --data-dir, or make one where TensorFlow is installed: tfds build "
        f"{builder.name} --file_format=array_record --data_dir={builder.data_dir_root}"
    )
