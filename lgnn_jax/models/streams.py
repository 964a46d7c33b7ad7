"""Which layers share an order of channels, so that it can be changed in all of them at once."""

from typing import Any, NamedTuple

import flax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.models.vgg import CONVOLUTIONS, VGG
from lgnn_jax.models.wide_resnet import WideResNet


class Stream(NamedTuple):
    """Layers, by their paths, that write, normalise and read the same channels.

    Attributes:
      writers: convolutions whose outputs they are; those of a Wide ResNet's group add up.
      norms: batch normalisations on the way.
      readers: layers whose inputs they are.
    """

    writers: tuple[str, ...]
    norms: tuple[str, ...]
    readers: tuple[str, ...]


def streams(model: VGG | WideResNet) -> list[Stream]:
    """Returns the streams of a network, from the images to the logits; each is independent.

    Example:
      >>> from lgnn_jax.models import build_model
      >>> streams(build_model("vgg11", num_classes=10))[0]
      Stream(writers=('conv1_1',), norms=('bn1_1',), readers=('conv2_1',))
    """
    return _of_vgg(model) if isinstance(model, VGG) else _of_wide_resnet(model)


def permute(variables: dict[str, Any], stream: Stream, permutation: np.ndarray) -> dict[str, Any]:
    """Returns a network that computes the same, with the channels of a stream in another order.

    Args:
      variables: "params" and "batch_stats" of a network, as `model.init` returns them.
      stream: one of its `streams`.
      permutation: int `(channels,)`: the channel that goes to each place.

    Raises:
      ValueError: if `permutation` does not order the stream's channels.
    """
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    channels = flat[f"params/{stream.writers[0]}/kernel"].shape[-1]
    permutation = np.asarray(permutation)
    if permutation.shape != (channels,) or set(permutation.tolist()) != set(range(channels)):
        raise ValueError(f"permutation must order the {channels} channels of {stream.writers[0]}.")
    outputs = {
        f"{collection}/{layer}/"
        for layer in stream.writers + stream.norms
        for collection in ("params", "batch_stats")
    }
    inputs = {f"params/{layer}/kernel" for layer in stream.readers}
    for path, leaf in flat.items():
        if path in inputs:
            leaf = jnp.take(leaf, permutation, axis=-2)
        if any(path.startswith(output) for output in outputs):
            leaf = jnp.take(leaf, permutation, axis=-1)
        flat[path] = leaf
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _of_vgg(model):
    names = [
        f"{block}_{i}"
        for block, count in enumerate(CONVOLUTIONS[model.depth], start=1)
        for i in range(1, count + 1)
    ]
    readers = [f"conv{name}" for name in names[1:]] + ["head"]
    return [
        Stream((f"conv{name}",), (f"bn{name}",), (reader,))
        for name, reader in zip(names, readers, strict=True)
    ]


def _of_wide_resnet(model):
    found = []
    # The stream of the stem goes on through the first group if that neither widens nor halves it.
    writers, norms, readers = ["stem"], [], []
    features = max(1, round(16 * model.width))
    for group, channels in enumerate((16, 32, 64), start=1):
        before, features = features, max(1, round(channels * model.widen * model.width))
        for i in range(1, (model.depth - 4) // 6 + 1):
            name = f"group{group}_block{i}"
            norms.append(f"{name}/bn1")
            readers.append(f"{name}/conv1")
            if i == 1 and (group > 1 or before != features):
                readers.append(f"{name}/shortcut")
                found.append(Stream(tuple(writers), tuple(norms), tuple(readers)))
                writers, norms, readers = [f"{name}/shortcut"], [], []
            found.append(Stream((f"{name}/conv1",), (f"{name}/bn2",), (f"{name}/conv2",)))
            writers.append(f"{name}/conv2")
    return [*found, Stream(tuple(writers), (*norms, "bn"), (*readers, "head"))]
