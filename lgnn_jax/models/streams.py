"""Networks that compute the same, with the channels of a stream in another order."""

from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.models.network import Stream


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
