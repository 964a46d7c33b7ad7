import flax
import jax
import numpy as np
import pytest

from lgnn_jax.models.build import build_model
from lgnn_jax.models.streams import permute

NETWORKS = ["vgg11", "vgg19", "wrn16_2", "wrn10_1"]


def _network(name):
    """A network with statistics and offsets that differ from channel to channel."""
    model = build_model(name, num_classes=7, width=1 / 8)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(1)

    def vary(leaf):
        return leaf + 0.3 * rng.uniform(size=leaf.shape).astype(np.float32) * (leaf.ndim == 1)

    return model, jax.tree.map(vary, variables)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_computes_the_same(name):
    model, variables = _network(name)
    x = np.random.default_rng(2).normal(size=(4, 32, 32, 3)).astype(np.float32)
    apply = jax.jit(lambda variables: model.apply(variables, x, activations=True))
    logits, activations = apply(variables)
    rng = np.random.default_rng(3)
    for stream in model.streams():
        kernel = variables["params"]
        for part in stream.writers[0].split("/"):
            kernel = kernel[part]
        permutation = rng.permutation(kernel["kernel"].shape[-1])
        permuted = permute(variables, stream, permutation)
        theirs, named = apply(permuted)
        np.testing.assert_allclose(theirs, logits, atol=1e-5)
        for layer, activation in activations.items():
            pre = np.asarray(activation.pre)
            pre = pre[..., permutation] if layer in stream.writers else pre
            np.testing.assert_allclose(named[layer].pre, pre, atol=1e-4, err_msg=layer)
        variables, logits, activations = permuted, theirs, named


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_writes_and_reads_once(name):
    model, variables = _network(name)
    paths = {
        path.rpartition("/")[0]
        for path in flax.traverse_util.flatten_dict(variables["params"], sep="/")
    }
    found = model.streams()
    writers = [layer for stream in found for layer in stream.writers]
    norms = [layer for stream in found for layer in stream.norms]
    readers = [layer for stream in found for layer in stream.readers]
    assert sorted(writers + norms + ["head"]) == sorted(paths)
    assert sorted(readers) == sorted(set(writers[1:]) | {"head"})


def test_not_a_permutation():
    model, variables = _network("vgg11")
    with pytest.raises(ValueError, match="must order the 8 channels of conv1_1"):
        permute(variables, model.streams()[0], np.zeros(8, int))
