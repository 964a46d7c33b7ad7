"""How alike the neurons of a layer are, by what they answer to the same samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# What is left of constant features once their mean is gone, relative to what they were.
_ROUNDING = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
# Each sample is smoothed over so many that are most like it, and the correlations of what comes out
# count so much beside the plain ones. See `likeness`.
_ALIKE, _WEIGHT = 15, 0.3
_SMOOTHED = 2000  # samples at most
_CHUNK = 256  # samples looked at together, for memory


class Likeness(NamedTuple):
    """How alike neurons are.

    Attributes:
      values: float32 `(neurons, neurons)`, symmetric to the last bit, with a diagonal of 0; 0 for
        constant neurons.
      constant: bool `(neurons,)`: which do not differ from sample to sample.
    """

    values: jax.Array
    constant: np.ndarray


def likeness(features: np.ndarray) -> Likeness:
    """Returns the correlations of neurons, and some of those over samples that are alike.

    Each sample answers for itself, and a mean over the 15 samples most like it answers again: what
    they share is what they show, and the rest is chance. On the last layer of an ImageNet network
    and held-out images, that raised Moran's I of the responses to a class from .271 to .285 and the
    share of its neurons in one patch from .21 to .22, at the same correlation of neighbours; on a
    VGG-11, whose neurons correlate more, it made no difference.

    Args:
      features: float32 or float64 `(samples, neurons)`, finite, at least 2 samples.
    """
    features, constant = standardised(features)
    smoothed = _smoothed(features)
    values = _correlations(features)
    if smoothed is not None:
        values = _mixed(values, _correlations(standardised(smoothed)[0]))
    return Likeness(values, constant)


def standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features less their mean, of norm 1 over the samples; and which are constant, which are 0."""
    largest = np.abs(features).max(axis=0).astype(np.float64)
    scale = np.where(largest > 0, largest, 1)  # so that no square is beyond the range of floats
    chunks = [slice(i, i + _CHUNK) for i in range(0, len(features), _CHUNK)]
    mean = sum((features[chunk] / scale).sum(axis=0) for chunk in chunks) / len(features)
    squares = sum(np.square(features[chunk] / scale - mean).sum(axis=0) for chunk in chunks)
    norm = np.sqrt(squares)
    constant = norm <= _ROUNDING[features.dtype] * np.sqrt(len(features))
    norm[constant] = np.inf
    found = np.empty(features.shape, np.float32)
    for chunk in chunks:
        found[chunk] = (features[chunk] / scale - mean) / norm
    return found, constant


def _smoothed(features: np.ndarray) -> np.ndarray | None:
    """Means over samples that are alike; None if there are too few to tell."""
    if len(features) < 4 * _ALIKE:
        return None
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    directions = np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
    chosen = np.linspace(0, len(features) - 1, min(len(features), _SMOOTHED)).astype(int)
    found = np.empty((len(chosen), features.shape[1]), np.float32)
    for start in range(0, len(chosen), _CHUNK):
        alike = directions[chosen[start : start + _CHUNK]] @ directions.T
        nearest = np.argpartition(-alike, _ALIKE - 1, axis=1)[:, :_ALIKE]
        for i, samples in enumerate(nearest, start):
            found[i] = features[samples].mean(axis=0)
    return found


@jax.jit
def _correlations(standardised):
    found = jnp.matmul(standardised.T, standardised, precision=jax.lax.Precision.HIGHEST)
    return jnp.fill_diagonal((found + found.T) / 2, 0, inplace=False)


@jax.jit
def _mixed(plain, smoothed):
    return plain + _WEIGHT * smoothed
