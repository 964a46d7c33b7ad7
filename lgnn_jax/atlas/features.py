"""What neurons answer to samples, and of which class these are: the input of `lgnn map`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgnn_jax.atlas.array_files import SUFFIXES, read_arrays
from lgnn_jax.maps.settling import checked_features
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.training import data
from lgnn_jax.training.data import DataError
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.trained import Trained

_LABELS, _NAMES = "labels", "class_names"
_OF_CLASSES = (_LABELS, _NAMES)


@dataclass(frozen=True, eq=False)
class Features:
    """What the neurons of some layers answer to the same samples.

    Attributes:
      layers: by name, float32 or float64 `(samples, neurons)`, finite, at least two of both.
      labels: int `(samples,)`, the class of each sample, from 0, each with a sample; or None.
      class_names: one for each label.
      left_out: arrays of a file that are no layers, with their shapes, in words.
    """

    layers: dict[str, np.ndarray]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    left_out: str = ""

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.layers.values())))

    def labelled(self, labels: np.ndarray, class_names: Sequence[str] = ()) -> "Features":
        """Returns the same with the class of each sample; those without a sample are left out.

        Args:
          labels: `(samples,)`, whole numbers, or names of classes.
          class_names: for labels from 0; if empty, a label is its own name.
        """
        classes, numbers = np.unique(labels, return_inverse=True)
        names = [class_names[c] for c in classes] if len(class_names) else classes
        return replace(self, labels=numbers, class_names=tuple(map(str, names)))


class _Classes(NamedTuple):
    labels: np.ndarray
    names: np.ndarray  # empty if there are none
    path: Path


def read(
    path: Path,
    *,
    layers: Sequence[str] = (),
    labels: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Features:
    """Reads features from a file.

    Args:
      path: a .npy file with an array `(samples, neurons)`, whose layer has the name of the file; or
        an .npz file with one such array for each layer, and perhaps "labels" `(samples,)`, whole
        numbers or names of classes, and "class_names" `(classes,)`, names for labels from 0.
      layers: those to read; all if empty.
      labels: a .npy file of labels, or an .npz file with "labels" and perhaps "class_names". They
        are taken instead of those in `path`.
      samples: to keep at most, drawn at random; all if None.
      seed: of the draw.

    Raises:
      DataError: in one line, for a file that is missing, damaged or holds Python objects; for an
        unknown layer, or one of another shape or not finite; for labels that do not fit.
    """
    arrays = read_arrays(path, {*layers, *_OF_CLASSES} if layers else None)
    chosen, others = _layers(path, arrays, layers)
    classes = _classes(path, arrays) if labels is None else _classes_alone(labels)
    count = len(arrays[chosen[0]])
    for name in chosen:
        if len(arrays[name]) != count:
            raise DataError(
                f"{path}: {name} has {len(arrays[name])} samples and {chosen[0]} has {count}: "
                "layers must respond to the same samples. --layers chooses some."
            )
    if classes is not None and len(classes.labels) != count:
        raise DataError(
            f"{classes.path} has {len(classes.labels)} labels, and {chosen[0]} in {path} has "
            f"{count} samples: there must be a label for each sample."
        )
    kept = kept_samples(count, samples, seed)
    try:
        found = {name: checked_features(arrays[name][kept], f"{path}: {name}") for name in chosen}
    except ValueError as error:
        raise DataError(str(error)) from None
    features = Features(found, left_out=_shapes(arrays, others))
    return features.labelled(classes.labels[kept], classes.names) if classes else features


def kept_samples(count: int, samples: int | None, seed: int) -> np.ndarray:
    """Returns the numbers of the samples to keep, at most `samples` of `count`, ascending."""
    if samples is None or samples >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))


def of_run(
    trained: Trained, dataset: data.Dataset, kept: np.ndarray, layers: Sequence[str] = ()
) -> Features:
    """Returns the activations of a run for some of its test images.

    Args:
      trained: the run.
      dataset: its images.
      kept: int, the numbers of the images.
      layers: those with a map to look at; all if empty.

    Raises:
      RunError: for an unknown layer, or activations that are not finite.
    """
    known = list(trained.maps)
    for name in layers:
        if name not in known:
            raise RunError(
                f"no layer {name!r:.80} with a map{did_you_mean(name, known)} Those with one are "
                f"{', '.join(known)}."
            )
    found = trained.activations(dataset.test_images[kept], list(dict.fromkeys(layers)) or known)
    return Features(found).labelled(dataset.test_labels[kept], dataset.class_names)


def _layers(
    path: Path, arrays: Mapping[str, np.ndarray | None], names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The layers to look at, and arrays that are none."""
    known = [name for name in arrays if name not in _OF_CLASSES]
    for name in names:
        if name not in known:
            raise DataError(
                f"{path} has no layer {name!r:.80}{did_you_mean(name, known)} "
                f"There are {', '.join(known) or 'none'}."
            )
    faults = {name: _fault(arrays[name]) for name in names or known}
    chosen = [name for name, fault in faults.items() if not fault]
    others = [name for name, fault in faults.items() if fault]
    if others and (names or len(known) == 1):
        raise DataError(f"{path}: {others[0]} {faults[others[0]]}")
    if not chosen:
        raise DataError(
            f"{path} holds no layer, an array (samples, neurons): it has "
            f"{_shapes(arrays, arrays) or 'no array'}."
        )
    return chosen, others


def _fault(values: np.ndarray) -> str:
    """Why an array is no layer; "" if it is one."""
    if values.ndim != 2:
        more = ": take the mean over pixels or tokens first." if values.ndim > 2 else "."
        return f"must have shape (samples, neurons), got {values.shape}{more}"
    if values.dtype.kind not in "fiub":
        stored = (
            ": .npy files cannot store bfloat16, save float32." if values.dtype == "V2" else "."
        )
        return f"must hold real numbers, got {values.dtype}{stored}"
    if min(values.shape) < 2:
        return f"must have two samples and two neurons at least, got {values.shape}."
    return ""


def _classes_alone(path: Path) -> _Classes:
    """The classes in a file of labels."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"--labels must be a .npy or .npz file, got {path}.")
    arrays = read_arrays(path)
    if list(arrays) == [path.stem]:  # a .npy file
        arrays = {_LABELS: arrays[path.stem]}
    found = _classes(path, arrays)
    if found is None:
        raise DataError(f"{path} has no array {_LABELS!r}: it has {_shapes(arrays, arrays)}.")
    return found


def _classes(path: Path, arrays: Mapping[str, np.ndarray | None]) -> _Classes | None:
    """The classes of samples, if a file has them."""
    labels, names = arrays.get(_LABELS), arrays.get(_NAMES, np.array([], str))
    if labels is None:
        return None
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise DataError(
            f"{path}: labels must be whole numbers or text (samples,), got {labels.dtype} "
            f"{labels.shape}."
        )
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}: class_names must be text (classes,), got {names.dtype} {names.shape}."
        )
    if len(set(names.tolist())) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"{path}: class_names must differ, and {str(twice)!r:.80} is there twice.")
    if len(names) and labels.dtype.kind == "U":
        raise DataError(f"{path}: labels are names already, and class_names are for numbers.")
    wrong = labels[(labels < 0) | (labels >= len(names))] if len(names) else labels[:0]
    if len(wrong):
        raise DataError(
            f"{path}: label {wrong[0]} has no name: class_names has {len(names)}, for labels from "
            "0."
        )
    return _Classes(labels, names, path)


def _shapes(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """Arrays in words, with their shapes."""
    return ", ".join(f"{name} {arrays[name].shape}" for name in names)
