"""A neuron's bias and its normalisation lie where its kernel does, wherever that settles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax import LayerMap, Settling
from lgnn_jax.maps.windows import heat_kernel

TABLE = {
    12: (4, 3),
    r"conv(\d)/bias": r"conv\1/kernel",
    r"bn(\d)/(scale|bias)": r"conv\1/kernel",
    "query/kernel": LayerMap(lgnn.grid(4, 2), (1, 2)),
    "query/bias": "query/kernel",
}


def tree(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "conv1": {"kernel": (3, 3, 2, 12), "bias": (12,)},
        "bn1": {"scale": (12, 1, 1), "bias": (12,)},
        "query": {"kernel": (5, 4, 2), "bias": (4, 2)},
        "head": {"kernel": (12, 5), "bias": (5,)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


@pytest.mark.usefixtures("strict_dtypes")
def test_followers_are_filtered_where_their_leader_settled():
    """Against products with the whole map's matrix, once neurons have moved."""
    settle = Settling(every=1, on="weights")
    tx = lgnn.transform(TABLE, sigma=0.7, kernel_size=None, settle=settle)
    _, state = tx.update(tree(), tx.init(tree()), tree())
    at = lgnn.places(state)
    assert list(at) == ["conv1/kernel", "query/kernel"]
    assert not np.array_equal(at["conv1/kernel"], np.arange(12))
    grads = tree(1)
    found, _ = tx.update(grads, state, tree())

    def expected(x, map, places):
        """Of neurons on the last axis."""
        out = np.zeros(x.shape)
        out[..., places] = np.asarray(x)[..., places] @ heat_kernel(map, 0.7)
        return out

    for names in (("conv1", "kernel"), ("conv1", "bias"), ("bn1", "scale"), ("bn1", "bias")):
        x, y = (t[names[0]][names[1]] for t in (grads, found))
        lined = np.asarray(x).reshape(-1, 12)
        right = expected(lined, lgnn.grid(4, 3), at["conv1/kernel"]).reshape(x.shape)
        np.testing.assert_allclose(y, right, atol=1e-6, err_msg=str(names))
    for name in ("kernel", "bias"):
        x, y = grads["query"][name], found["query"][name]
        right = expected(np.asarray(x).reshape(-1, 8), lgnn.grid(4, 2), at["query/kernel"])
        np.testing.assert_allclose(y, right.reshape(x.shape), atol=1e-6)
    np.testing.assert_array_equal(found["head"]["bias"], grads["head"]["bias"])


def test_followers_do_not_settle_by_themselves():
    assert set(lgnn.settle_layers(tree(), TABLE)) == {"conv1/kernel", "query/kernel"}


def test_a_leader_named_by_hand():
    by_hand = LayerMap(lgnn.grid(4, 3), leader="conv1/kernel")
    maps = lgnn.layer_maps(tree(), {12: (4, 3), "conv1/bias": by_hand})
    assert maps["conv1/bias"] == by_hand
    assert lgnn.layer_maps(tree(), {12: (4, 3), "conv1/bias": "conv1/kernel"})[
        "conv1/bias"
    ] == LayerMap(lgnn.grid(4, 3), (0,), leader="conv1/kernel")


def test_explain_says_whose_place_a_follower_has(capsys):
    lgnn.explain(tree(), TABLE)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in rows if row[0] == "bn1/scale"]
    assert row[-2:] == ["as", "conv1/kernel"]
    assert "4x3" in row


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"conv1/bias": "conv2/kernel"},
            "som_table['conv1/bias'] says that 'conv1/bias' lies as 'conv2/kernel' does, which is "
            "no parameter; did you mean 'conv1/kernel'?",
        ),
        ({"conv1/bias": "head/kernel"}, "which has no map of its own: name the kernel."),
        ({"conv1/bias": "conv1/bias"}, "which has no map of its own: name the kernel."),
        (
            {"conv1/bias": "bn1/bias", "bn1/bias": "conv1/bias"},
            "which has no map of its own: name the kernel.",
        ),
        (
            {"head/bias": "conv1/kernel"},
            "it must have one number for each of 12 neurons, got shape (5,).",
        ),
        ({r"conv(\d)/bias": r"conv\2/kernel"}, r"som_table['conv(\\d)/bias'], 'conv\\2/kernel': "),
        ({12: "conv1/kernel"}, "som_table[12] must be (m, n), two positive ints, a map"),
        (
            {"conv1/bias": LayerMap(lgnn.grid(6, 2), leader="conv1/kernel")},
            "'conv1/bias' lies on 6x2, but 'conv1/kernel', its leader, on 4x3.",
        ),
        (
            {"conv1/bias": LayerMap(lgnn.grid(4, 3), leader="conv1/kernl")},
            "'conv1/bias' lies as 'conv1/kernl' does, which has no map of its own: name the",
        ),
    ],
)
def test_leaders_that_cannot_be(entries, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        lgnn.layer_maps(tree(), {12: (4, 3)} | entries)
    assert message in str(error.value)


def test_a_leader_is_a_path():
    with pytest.raises(ValueError, match=r"^leader must be a path or None, got 3\.$"):
        LayerMap(lgnn.grid(4, 3), leader=3)
