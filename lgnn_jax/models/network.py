"""The seam between a network, of whatever framework, and those that train it or look at it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax

from lgnn_jax.maps.parameters import parameters


class Output(NamedTuple):
    """What a network computes of a batch.

    Attributes:
      logits: float32 `(batch, classes)`.
      state: as it is after this batch; see `Network`.
      activations: by layer, `(batch, ..., neurons)`: before the nonlinearity, where the network
        says so; empty unless asked for.
    """

    logits: jax.Array
    state: Any
    activations: dict[str, jax.Array]


class Stream(NamedTuple):
    """Layers, by their names, that write, normalise and read the same channels.

    Attributes:
      writers: layers whose outputs they are; those of a residual stream add up.
      norms: normalisations on the way.
      readers: layers whose inputs they are.
    """

    writers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


class Network(Protocol):
    """A network as the trainer and the analysis see it. Frozen and hashable: programs are kept by
    it.

    Its parameters are a nested dict of arrays, so that paths have names and checkpoints need no
    class; its state, running statistics say, is another one, or `{}`.

    Attributes:
      neuron_axis: of its kernels: -1 for `(spatial..., c_in, c_out)`, 0 for `(c_out, c_in,
        spatial...)`.
      synced: whether the state after a batch is that of all devices; if not, the trainer takes the
        mean over them.
    """

    neuron_axis: int
    synced: bool

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Returns parameters and state for images `(height, width, channels)`."""

    def apply(
        self,
        params: Any,
        state: Any,
        x: jax.Array,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        activations: bool | Literal["means"] = False,
    ) -> Output:
        """Computes a batch.

        Args:
          params: as `init` returns them, maybe in the compute type.
          state: as `init` or `apply` returned it.
          x: standardised images, float32 `(batch, height, width, channels)`.
          train: whether this is a training step, with dropout and the statistics of this batch.
          rng: a key for what a training step leaves to chance.
          activations: whether to return those by layer; "means" if their means over pixels,
            `(batch, neurons)`, do as well, where they cost less.
        """

    def layers(self, image_shape: tuple[int, ...]) -> dict[str, str]:
        """Returns the path of each layer's kernel by the layer's name, from images to logits.

        The names are those of `Output.activations`.
        """

    def streams(self, image_shape: tuple[int, ...]) -> list[Stream]:
        """Returns which layers share an order of channels, from images to logits."""


def kernels(params: Any) -> dict[str, str]:
    """Returns the path of each kernel by its layer, in the order of the tree.

    Kernels are parameters of two axes or more that are not biases, by `lgnn_jax.explain`. A layer
    is named by the path of its kernel less the last part, or by the whole path if it has several.

    Example:
      >>> import numpy as np
      >>> kernels({"conv": {"kernel": np.zeros((3, 3, 1, 4)), "bias": np.zeros(4)}})
      {'conv': 'conv/kernel'}
    """
    paths = [p.path for p in parameters(params) if p.kind != "bias"]
    layers = [path.rpartition("/")[0] for path in paths]
    return {
        layer if layer and layers.count(layer) == 1 else path: path
        for layer, path in zip(layers, paths, strict=True)
    }


def in_order(found: dict[str, str], order: Sequence[str]) -> dict[str, str]:
    """Returns layers in the order in which `order` names them; those that it lacks come last."""
    places = {name: i for i, name in reversed(list(enumerate(order)))}
    return {x: found[x] for x in sorted(found, key=lambda x: places.get(x, len(order)))}


def at_path(params: Any, path: str) -> Any:
    """Returns a parameter by its '/'-joined path."""
    for part in path.split("/"):
        params = params[part]
    return params


def neurons_last(kernel: Any, axes: tuple[int, ...]) -> Any:
    """Returns a kernel with its neurons on the last axis.

    Args:
      kernel: an array of JAX or numpy.
      axes: those that count its neurons together, from 0; see `lgnn_jax.LayerMap.axes`.
    """
    kept = [axis for axis in range(kernel.ndim) if axis not in axes]
    return kernel.transpose(*kept, *axes).reshape(*(kernel.shape[axis] for axis in kept), -1)


def alone(layers: dict[str, str]) -> list[Stream]:
    """Returns a stream for each layer, where nothing is known of which share their channels."""
    return [Stream((layer,)) for layer in layers]
