"""CIFAR-10 and CIFAR-100 for tensorflow-datasets, prepared without TensorFlow.

The stock builders read the archive and encode its images with TensorFlow. The builders here do both
with numpy and Pillow; all the rest is stock, and so is the copy they write.
"""

import contextlib
import itertools
import os
import pathlib
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums, download_manager
from tensorflow_datasets.image_classification import cifar

_PLANES = (3, 32, 32)  # an image as the archive has it


class DatasetError(Exception):
    """A dataset cannot be downloaded, read or written."""


def prepare(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    checksum: tuple[int, str] | None = None,
) -> None:
    """Prepare the copy of CIFAR that `tfds.builder(name)` reads, unless there is one already.

    Downloads the archive, checks it and writes the copy in array_record format, for
    `as_data_source`. The copy appears whole or not at all, and the archive is not kept. A machine
    without internet access can have the official archive put into `<data_dir>/downloads/manual`.

    Args:
      name: "cifar10" or "cifar100".
      data_dir: directory of all prepared datasets, by default that of tensorflow-datasets:
        `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      url: http(s) address of the binary archive, in place of the official one.
      checksum: size in bytes and hexadecimal sha256 of the archive, in place of the official ones,
        which the archive at another `url` has to match as well.

    Raises:
      ValueError: if `name` is neither dataset.
      DatasetError: if the archive cannot be downloaded, is not the expected one or is malformed, or
        if `data_dir` cannot be written. A later call starts afresh.

    Reference:
      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
      https://www.cs.toronto.edu/~kriz/cifar.html.

    """
    builders = {"cifar10": _Cifar10, "cifar100": _Cifar100}
    if name not in builders:
        raise ValueError(f'name must be "cifar10" or "cifar100", got {name!r}.')
    try:
        builder = builders[name](data_dir=data_dir, url=url, checksum=checksum)
        if not pathlib.Path(builder.data_dir).exists():
            _write(builder)
    except OSError as error:
        raise DatasetError(
            f"{name} cannot be written to {data_dir or tfds.core.constants.DATA_DIR} "
            f"({_one_line(error)}); pass a data_dir that is writable and has free space."
        ) from error


def _write(builder: "_FromBinary") -> None:
    copy = pathlib.Path(builder.data_dir)
    try:
        builder.root.mkdir(parents=True, exist_ok=True)
        # tfds leaves a download that fails where it is, so it gets a place that goes away.
        with tempfile.TemporaryDirectory(prefix="incomplete.", dir=builder.root) as download_dir:
            builder.download_and_prepare(
                download_dir=download_dir,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=builder.manual.parent, try_download_gcs=False
                ),
                file_format="array_record",
            )
    except OSError:
        if not copy.exists():  # otherwise another process was faster
            raise
    finally:
        with contextlib.suppress(OSError):
            copy.parent.rmdir()  # only if it is empty


class _FromBinary:
    """Stands before a stock builder, in place of its parts that would need TensorFlow."""

    stock: type[cifar.Cifar10]

    def __init__(self, *, url: str | None, checksum: tuple[int, str] | None, **kwargs: Any):
        # The copy records the module of its builder; it must not depend on this library.
        self.__module__ = self.stock.__module__
        official_url = self._cifar_info.url
        official = self.stock.url_infos[official_url]
        size, sha256 = checksum or (official.size, official.checksum)
        self._url = url or official_url
        self._expected = checksums.UrlInfo(int(size), sha256.lower(), official.filename)
        super().__init__(**kwargs)
        self.root = pathlib.Path(self.data_dir_root)
        self.manual = self.root / "downloads" / "manual" / official.filename

    @property
    def url_infos(self) -> dict[str, checksums.UrlInfo]:
        return {self._url: self._expected}

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        layout = self._cifar_info
        train, test, names = (
            [layout.prefix + file for file in files]
            for files in (layout.train_files, layout.test_files, layout.label_files)
        )
        contents = _read_members(
            self._download(dl_manager), {*train, *test, *names}, source=self._source
        )
        features = [self.info.features[key] for key in layout.label_keys]
        for feature, file in zip(features, names, strict=True):
            feature.names = _label_names(file, contents[file], feature.num_classes)
        classes = [feature.num_classes for feature in features]
        # All files are checked here, before the first example is written.
        records = {file: _records(file, contents[file], classes) for file in [*train, *test]}
        return {
            tfds.Split.TRAIN: self._generate_examples("train_", [records[file] for file in train]),
            tfds.Split.TEST: self._generate_examples("test_", [records[file] for file in test]),
        }

    def _generate_examples(
        self, split_prefix: str, files: Iterable[np.ndarray]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = self._cifar_info.label_keys
        # The index is the stock builder's key, which settles the order of the copy.
        for index, record in enumerate(itertools.chain.from_iterable(files)):
            labels, pixels = np.split(record, [len(keys)])
            image = pixels.reshape(_PLANES).transpose(1, 2, 0)
            example = dict(zip(keys, labels.tolist(), strict=True))
            example["id"] = f"{split_prefix}{index:05d}"
            # tfds has Pillow encode this, and TensorFlow an array.
            example["image"] = Image.fromarray(np.ascontiguousarray(image))
            yield index, example

    @property
    def _source(self) -> str:
        # tfds prefers the archive that the user has put there.
        return str(self.manual) if self.manual.exists() else self._url

    def _download(self, dl_manager: tfds.download.DownloadManager) -> os.PathLike[str]:
        source = self._source
        try:
            if source == self._url:
                # tfds tries ten times, which takes minutes where there is no server at all.
                requests.head(self._url, allow_redirects=True, timeout=30).close()
            return dl_manager.download(self._url)
        except (tfds.download.DownloadError, requests.RequestException) as error:
            cause = error  # the first of those that led to it: the last repeats them all
            while cause.__context__ is not None:
                cause = cause.__context__
            raise DatasetError(
                f"{self._url} cannot be downloaded ({_one_line(cause)}); try again later, or "
                f"put the archive at {self.manual}."
            ) from error
        except download_manager.NonMatchingChecksumError as error:
            raise DatasetError(
                f"{source} is not the expected archive of {self._expected.size} bytes with sha256 "
                f"{self._expected.checksum}, it has {int(dl_manager.downloaded_size)} bytes; "
                "fetch it again, or pass the checksum of this one."
            ) from error


class _Cifar10(_FromBinary, cifar.Cifar10, skip_registration=True):
    name = "cifar10"
    stock = cifar.Cifar10


class _Cifar100(_FromBinary, cifar.Cifar100, skip_registration=True):
    name = "cifar100"
    stock = cifar.Cifar100


def _read_members(
    archive: os.PathLike[str], files: Collection[str], *, source: str
) -> dict[str, bytes]:
    """Read the named files, in one pass and without extracting anything."""
    contents = {}
    reached = -1
    try:
        # Not as a stream ("r|gz"): tarfile then takes forever to skip a size beyond the end.
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.offset <= reached:  # a negative size leads back, again and again
                    raise tarfile.ReadError(f"{member.name!r} is reached from a later member")
                reached = member.offset
                if member.isfile() and member.name in files:
                    contents[member.name] = tar.extractfile(member).read()
    except Exception as error:  # of tarfile, which lets those of its parsers pass: of any class
        cause = _one_line(error) or type(error).__name__
        raise DatasetError(f"{source} must be a whole tar.gz archive ({cause}).") from error
    if missing := sorted(set(files) - contents.keys()):
        raise DatasetError(f"{source} must have the file {missing[0]}, which is missing.")
    return contents


def _label_names(file: str, content: bytes, num_classes: int) -> list[str]:
    # tfds strips them when it reads the copy, which is too late to find that two are the same.
    lines = content.decode("utf-8", "replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    different = len(set(names))
    if not len(names) == different == num_classes:
        raise DatasetError(
            f"{file} must have {num_classes} different label names, got {len(names)} names, "
            f"{different} of them different."
        )
    return names


def _records(file: str, content: bytes, num_classes: Sequence[int]) -> np.ndarray:
    """Check the records and give each a row: its labels, below `num_classes`, and its image."""
    size = len(num_classes) + int(np.prod(_PLANES))
    if not content or len(content) % size:
        raise DatasetError(
            f"{file} must have a positive multiple of {size} bytes, a record each, "
            f"got {len(content)}."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    for column, classes in enumerate(num_classes):
        index = int(records[:, column].argmax())
        if (label := records[index, column]) >= classes:
            raise DatasetError(
                f"{file} must have labels below {classes}, got {label} in record {index}."
            )
    return records


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
