"""A data set in pieces that travel: lossless WebP strips in zip files, each with its SHA-256.

CIFAR-100 is 97 MiB so, in two pieces, and unpacks in a second; as prepared by tensorflow-datasets
it is 137 MB. Needs numpy and Pillow alone.
"""

import hashlib
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from lgnn_jax.training.data import Dataset

MANIFEST = "manifest.json"
MOST_BYTES = 55 * 2**20  # of a piece
_STRIP = 500  # images; WebP allows 16,383 rows


class PieceError(Exception):
    """A piece is missing or damaged; one clear line."""


def pack(dataset: Dataset, folder: Path) -> list[Path]:
    """Writes a data set of coloured images as pieces of at most 55 MiB, and their manifest.

    Raises:
      PieceError: if the images are not coloured.
    """
    images = np.concatenate([dataset.train_images, dataset.test_images])
    if images.shape[-1] != 3:
        raise PieceError(f"{dataset.name}: images must have 3 channels, got {images.shape[-1]}.")
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    height = images.shape[1]
    step = min(_STRIP, 16_383 // height)
    starts = range(0, len(images), step)
    with ThreadPoolExecutor() as pool:
        strips = list(pool.map(lambda start: _encode(images[start : start + step]), starts))
    count = -(-sum(map(len, strips)) // MOST_BYTES)
    share = -(-len(strips) // count)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = {}
    for number in range(count):
        path = folder / f"{dataset.name}_{number + 1}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(number * share, min((number + 1) * share, len(strips))):
                archive.writestr(f"{i:05}.webp", strips[i])
        pieces[path.name] = _sha256(path)
    manifest = {
        "name": dataset.name,
        "train_count": len(dataset.train_images),
        "image_shape": images.shape[1:],
        "class_names": dataset.class_names,
        "labels": labels.tolist(),
        "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
        "pieces": pieces,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return [folder / name for name in (MANIFEST, *pieces)]


def unpack(folder: Path) -> Dataset:
    """Reads a data set from its pieces.

    Raises:
      PieceError: if a piece or the manifest is missing or is not what was packed.
    """
    manifest = read_manifest(folder)
    for name in manifest["pieces"]:
        check(folder / name, manifest)
    encoded = []
    for name in manifest["pieces"]:
        with zipfile.ZipFile(folder / name) as archive:
            encoded += [archive.read(member) for member in sorted(archive.namelist())]
    with ThreadPoolExecutor() as pool:
        strips = list(pool.map(_decode, encoded))
    images = np.concatenate(strips).reshape(-1, *manifest["image_shape"])
    if hashlib.sha256(images.tobytes()).hexdigest() != manifest["images_sha256"]:
        raise PieceError(f"{folder}: the unpacked images are not those that were packed.")
    labels = np.array(manifest["labels"], np.int32)
    images, labels = (np.split(x, [manifest["train_count"]]) for x in (images, labels))
    return Dataset(
        manifest["name"], images[0], labels[0], images[1], labels[1], tuple(manifest["class_names"])
    )


def read_manifest(folder: Path) -> dict:
    """Reads what `pack` wrote beside the pieces."""
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise PieceError(f"{folder / MANIFEST} cannot be read: {error}.") from None


def check(piece: Path, manifest: dict) -> None:
    """Raises PieceError unless a piece is there and whole."""
    if not piece.exists():
        raise PieceError(f"{piece} is missing: bring it, then receive it.")
    found, expected = _sha256(piece), manifest["pieces"][piece.name]
    if found != expected:
        raise PieceError(f"{piece} is damaged: its SHA-256 is {found}, not {expected}.")


def _encode(images):
    strip = Image.fromarray(images.reshape(-1, *images.shape[2:]))
    with io.BytesIO() as file:
        strip.save(file, "WEBP", lossless=True, method=4, quality=100)
        return file.getvalue()


def _decode(encoded):
    with Image.open(io.BytesIO(encoded)) as strip:
        return np.asarray(strip.convert("RGB"))


def _sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
