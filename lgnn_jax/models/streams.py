"""Networks that compute the same, with their neurons in another order."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lgnn_jax.maps.parameters import parameters, path_name
from lgnn_jax.maps.windows import one_line
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.models.network import Stream, kernels


def layer_chain(
    *layers: str, norms: Mapping[str, str | Sequence[str]] | None = None
) -> list[Stream]:
    """Returns the streams of a plain chain, in which each layer is read by the next one alone.

    Args:
      *layers: names of two layers or more, from the images to the logits; see `reorder`.
      norms: by layer, the name or names of what normalises its outputs before the next layer reads
        them.

    Raises:
      ValueError: for fewer than two layers, one that is named twice, and norms of others.

    Example:
      >>> for stream in layer_chain("conv1", "conv2", "head", norms={"conv1": "bn1"}):
      ...     print(stream)
      Stream(writers=('conv1',), norms=('bn1',), readers=('conv2',))
      Stream(writers=('conv2',), norms=(), readers=('head',))
      Stream(writers=('head',), norms=(), readers=())
    """
    norms = {} if norms is None else norms
    if len(layers) < 2 or len(set(layers)) < len(layers):
        raise ValueError(
            f"layers must be the names of two or more, each once, got {one_line(layers):.80}."
        )
    for layer in norms:
        if layer not in layers:
            raise ValueError(f"norms names {layer!r}, which is none of {', '.join(layers)}.")
    of = {x: (names,) if isinstance(names, str) else tuple(names) for x, names in norms.items()}
    readers = [*((layer,) for layer in layers[1:]), ()]
    return [
        Stream((layer,), of.get(layer, ()), reader)
        for layer, reader in zip(layers, readers, strict=True)
    ]


def reorder(
    params: Any,
    places: Mapping[str, ArrayLike],
    streams: Sequence[Stream],
    state: Any = None,
    *,
    neuron_axis: int = -1,
) -> tuple[Any, Any]:
    """Puts the neurons of layers in another order; the network computes the same.

    Kernels and biases of the layers are reordered, the scales, offsets and statistics of what
    normalises their outputs, and the kernels of the layers that read them. Layers that are not in
    `places` keep the order of their neurons.

    That is possible where dense layers and convolutions read what others wrote, and between them is
    nothing but what treats all channels alike: nonlinearities, pooling, dropout, batch and layer
    normalisation, sums of the layers of one stream, and flattening before a dense layer. It is not
    where channels have a fixed order (grouped convolutions, group normalisation, heads of
    attention, channels that are split or put side by side), or where several layers share one
    kernel. `streams` has to be right: parameters do not say who reads whom. Of parameters that look
    like a normalisation and are not named, a warning tells.

    Args:
      params: any tree of arrays, such as a `Network`'s.
      places: by layer, int `(neurons,)`: the neuron that goes to each place, as `places` of a map
        found for a trained layer. A layer is named by the path of its kernel or that path less its
        last part: "conv1/kernel" or "conv1".
      streams: who reads and normalises which layer: `network.streams(image_shape)` of our own
        networks, `lgnn_jax.layer_chain` for a plain chain, or a list of one's own. Layers of one
        stream have one order: it is enough to name one of them.
      state: running statistics, in a tree with the names of `params`. To be given where there are
        any.
      neuron_axis: -1 for kernels `(spatial..., c_in, c_out)` and a flatten of `(..., channels)`, 0
        for `(c_out, c_in, spatial...)` and a flatten of `(channels, ...)`, as in Equinox and
        PyTorch.

    Returns:
      Parameters and state, of the same structure. The state is None if none was given.

    Raises:
      ValueError: for a layer that is unknown, or that no layer reads: the order of logits is that
        of the classes; for places that are no order of its neurons, or differ within a stream; and
        for kernels and normalisations whose channels are not those of the stream.

    Example:
      >>> dense = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([3.0, 4.0])}
      >>> params = {"dense": dense, "head": {"kernel": jnp.array([[5.0], [6.0]])}}
      >>> params, _ = reorder(params, {"dense": [1, 0]}, layer_chain("dense", "head"))
      >>> params["dense"]["kernel"].tolist(), params["dense"]["bias"].tolist()
      ([[2.0, 1.0]], [4.0, 3.0])
      >>> params["head"]["kernel"].tolist()
      [[6.0], [5.0]]
    """
    if neuron_axis not in (-1, 0):
        raise ValueError(f"neuron_axis must be -1 or 0, got {one_line(neuron_axis):.80}.")
    if not isinstance(streams, (list, tuple)):
        raise ValueError(
            "streams must be a list of Stream, as of lgnn_jax.layer_chain, got "
            f"{one_line(streams):.80}."
        )
    if not isinstance(places, Mapping):
        raise ValueError(f"places must be orders by layer, got {type(places).__name__}.")
    network = _Network(params, state, streams, neuron_axis)
    chosen: dict[int, tuple[str, np.ndarray]] = {}
    for key, order in places.items():
        layer = network.layer(key)
        order = _order(key, order, network.neurons(layer))
        first, other = chosen.setdefault(network.stream(layer), (key, order))
        if not np.array_equal(order, other):
            raise ValueError(
                f"{first} and {key} write to one stream of channels: their places must be the same."
            )
    moves = [move for i, (_, order) in chosen.items() for move in network.moves(streams[i], order)]
    for i, (key, order) in chosen.items():
        if loose := network.loose(len(order)):
            warnings.warn(
                f"{loose[0]} has one number for each neuron of {key}, and the streams do not name "
                "it: if it normalises them it has to be reordered too, as by layer_chain(..., "
                f"norms={{{streams[i].writers[0]!r}: {loose[0].rpartition('/')[0]!r}}}).",
                stacklevel=2,
            )

    def moved(part, path, leaf):
        for move in moves:
            if (move.part, move.path) == (part, path_name(path)):
                leaf = jnp.take(leaf, move.index, axis=move.axis)
        return leaf

    return tuple(
        jax.tree_util.tree_map_with_path(partial(moved, part), tree)
        for part, tree in (("params", params), ("state", state))
    )


def _order(key: str, order: ArrayLike, neurons: int) -> np.ndarray:
    """Where the neurons of a layer go, checked."""
    found = np.asarray(order)
    one_each = found.ndim == 1 and np.array_equal(np.sort(found), np.arange(neurons))
    if found.dtype.kind not in "iu" or not one_each:
        raise ValueError(
            f"places of {key} must be whole numbers, each of its neurons 0 to {neurons - 1} once, "
            f"got {found.dtype} of shape {found.shape}: {one_line(order):.60}."
        )
    return found


class _Move(NamedTuple):
    """An axis of an array, and what goes to each place on it."""

    part: str
    path: str
    axis: int
    index: np.ndarray


class _Network:
    """The arrays of a network, and who reads whom."""

    def __init__(self, params: Any, state: Any, streams: Sequence[Stream], neuron_axis: int):
        """Raises ValueError for streams that are none."""
        for stream in streams:
            if not isinstance(stream, Stream) or any(isinstance(names, str) for names in stream):
                raise ValueError(
                    "streams must be a list of Stream, each with tuples of names, got "
                    f"{one_line(stream):.80}."
                )
        self.streams, self.neuron_axis = streams, neuron_axis
        self.layers = kernels(params)
        self.kinds = {p.path: p for p in parameters(params)}
        self.arrays = {
            part: {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
            for part, tree in (("params", params), ("state", state))
        }

    def layer(self, name: str) -> str:
        """A layer by its name or the path of its kernel; one that can be reordered."""
        by_path = {path: layer for layer, path in self.layers.items()}
        layer = name if name in self.layers else by_path.get(name)
        if layer is None:
            hint = did_you_mean(str(name), list(self.layers))
            raise ValueError(f"no layer {name!r} with a kernel{hint}")
        kernel = self.kinds[self.layers[layer]]
        if layer == kernel.path:
            raise ValueError(
                f"{name} cannot be reordered: its module has other kernels, or is all of the "
                "network, so that it is not clear what belongs to it."
            )
        if len(kernel.shape) > 2 and kernel.kind != "convolution":
            raise ValueError(
                f"{name}, with a kernel {kernel.shape}, cannot be reordered: dense layers and "
                f"convolutions can, and it is {kernel.why}."
            )
        return layer

    def neurons(self, layer: str) -> int:
        """How many a layer has."""
        return self.kinds[self.layers[layer]].shape[self.neuron_axis]

    def stream(self, layer: str) -> int:
        """The number of the stream that a layer writes to, if others read it."""
        found = [i for i, stream in enumerate(self.streams) if layer in stream.writers]
        if len(found) > 1:
            raise ValueError(f"{layer} writes to {len(found)} of the streams: only one is allowed.")
        if not found or not self.streams[found[0]].readers:
            raise ValueError(
                f"no layer reads {layer}, by the streams: the outputs of a last layer, the logits, "
                "keep their order. If a layer does read it, say so in streams; "
                "lgnn_jax.layer_chain makes those of a plain chain."
            )
        return found[0]

    def loose(self, neurons: int) -> list[str]:
        """Parameters with one number a neuron that are of no layer and no normalisation."""
        owners = {path.rpartition("/")[0] for path in self.layers.values()}
        norms = {norm for stream in self.streams for norm in stream.norms}
        return [
            path
            for path, array in self.arrays["params"].items()
            if array.shape == (neurons,)
            and path.rpartition("/")[0] not in owners
            and not any(path.startswith(f"{norm}/") for norm in norms)
        ]

    def moves(self, stream: Stream, order: np.ndarray) -> list[_Move]:
        """All that has to move for a stream to be in another order."""
        writers = [self.layer(writer) for writer in stream.writers]
        for writer in writers:
            # Of a grouped convolution each output is tied to a group of inputs.
            for source in self.streams:
                if writer in source.readers:
                    self._read(writer, np.arange(self.neurons(self.layer(source.writers[0]))))
        found = []
        for part, arrays in self.arrays.items():
            for path, array in arrays.items():
                owner = path.rpartition("/")[0]
                normalises = any(path.startswith(f"{norm}/") for norm in stream.norms)
                if array.ndim and (owner in writers or normalises):
                    axis = self.neuron_axis
                    if array.shape[axis] != len(order):
                        raise ValueError(
                            f"{path} with shape {array.shape} must have the {len(order)} channels "
                            f"of {writers[0]} on axis {axis}."
                        )
                    found.append(_Move(part, path, axis, order))
        for norm in stream.norms:
            if not any(move.path.startswith(f"{norm}/") for move in found):
                raise ValueError(
                    f"{norm}, which the streams name as a normalisation of {writers[0]}, has no "
                    "parameters and no statistics: if that is right, leave it out."
                )
            if any(path.isdecimal() for path in self.arrays["state"]):
                raise ValueError(
                    f"the statistics of {norm} cannot be identified: the state has numbers for "
                    "names, as of EquinoxNetwork."
                )
        for reader in stream.readers:
            reader = self.layer(reader)
            if sum(reader in other.readers for other in self.streams) > 1:
                raise ValueError(f"{reader} reads several of the streams: only one is allowed.")
            found.append(self._read(reader, order))
        return found

    def _read(self, reader: str, order: np.ndarray) -> _Move:
        """How the inputs of a layer follow the order of what it reads."""
        path = self.layers[reader]
        shape = self.kinds[path].shape
        axis = 1 if self.neuron_axis == 0 else len(shape) - 2
        inputs, channels = shape[axis], len(order)
        if len(shape) == 2 and inputs % channels == 0:
            # Pixels and channels side by side, channels fastest or slowest; one pixel, if none.
            numbers = np.arange(inputs)
            if self.neuron_axis == 0:
                index = numbers.reshape(channels, -1)[order]
            else:
                index = numbers.reshape(-1, channels)[:, order]
            return _Move("params", path, axis, index.ravel())
        if inputs != channels:
            grouped = len(shape) > 2 and channels % inputs == 0
            raise ValueError(
                f"{reader} with a kernel {shape} reads {inputs} channels where {channels} are "
                f"written{': a grouped convolution, which ties them to groups' * grouped}."
            )
        return _Move("params", path, axis, order)
