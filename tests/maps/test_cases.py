"""Networks as their libraries make them: which axis of which parameter counts neurons.

A unit in the gradient shows it: where it spreads to, the filter takes for neighbours.
"""

import re
import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lgnn_jax as lgnn
from lgnn_jax import LayerMap
from lgnn_jax.maps.parameters import path_name

KEY = jax.random.key(0)


def tree(**shapes):
    """Arrays of some shapes by path, `__` for a slash."""
    params = {}
    for path, shape in shapes.items():
        *layers, name = path.split("__")
        node = params
        for layer in layers:
            node = node.setdefault(layer, {})
        node[name] = np.zeros(shape, np.float32)
    return params


def linen(module, *shape):
    """The parameters of a Flax module for an input of a shape, all zeros."""
    shapes = jax.eval_shape(module.init, KEY, jnp.zeros(shape))["params"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def arrays(module):
    return eqx.filter(module, eqx.is_array)


def by_path(params):
    return {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params)}


def spread(params, table, path, index, **options):
    """Where a unit at an index of a parameter's gradient goes: the indices that are not zero."""
    assert path in by_path(params)
    units = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    by_path(units)[path][index] = 1
    tx = lgnn.transform(table, method="matmul", **options)
    updates = by_path(tx.update(units, tx.init(params))[0])
    for other, update in updates.items():
        assert other == path or not np.any(update)
    return {tuple(i) for i in np.argwhere(updates[path]).tolist()}


def around(place, rows, columns):
    """The places that a 3x3 window has around one, on a grid."""
    row, column = divmod(place, columns)
    return {
        r * columns + c
        for r in range(max(row - 1, 0), min(row + 2, rows))
        for c in range(max(column - 1, 0), min(column + 2, columns))
    }


def shown(params, table, capsys, **options):
    """What `explain` prints of each parameter, path -> text; no line is wider than 100."""
    capsys.readouterr()
    lgnn.explain(params, table, **options)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)
    paths = list(by_path(params))
    rows = {}
    for line in lines[1:]:
        first = line.split()[0]
        if not line.startswith(" ") and first in paths:
            rows[first] = ""
        rows[list(rows)[-1]] += " " + line
    assert list(rows) == paths
    found = {path: " ".join(text.split()) for path, text in rows.items()}
    for path, leaf in by_path(params).items():
        assert found[path].startswith(f"{path} ({', '.join(map(str, leaf.shape))})")
    return found


def refused(call, *parts):
    with pytest.raises(ValueError, match=r".") as error:
        call()
    text = str(error.value)
    assert len(text.splitlines()) == 1
    for part in parts:
        assert part in text
    return text


def remedies(text):
    """The tables that a message proposes, as Python reads them."""
    names = {"LayerMap": LayerMap, "grid": lgnn.grid}
    return [eval(found, names) for found in re.findall(r"\{.*?\)\}", text)]


# --- neurons on the first axis ------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        eqx.nn.Conv2d(3, 64, 3, key=KEY),
        eqx.nn.Conv2d(64, 64, 3, key=KEY),
        eqx.nn.Conv2d(8, 64, 1, key=KEY),
        eqx.nn.Conv2d(3, 64, 4, key=KEY),
        eqx.nn.Conv2d(3, 64, 16, key=KEY),
        eqx.nn.Conv3d(3, 64, 3, key=KEY),
    ],
    ids=lambda module: str(module.weight.shape),
)
def test_a_kernel_that_begins_with_its_neurons_is_refused_with_the_remedy(module):
    params = arrays(module)
    shape = f"'weight' with shape {module.weight.shape}"
    side = module.weight.shape[-1]
    refused(lambda: lgnn.som_table(params), shape, "pass neuron_axis=0")
    tx = lgnn.transform({side: lgnn.som_dimensions(side)})
    refused(lambda: tx.init(params), shape, "pass neuron_axis=0")
    assert lgnn.som_table(params, neuron_axis=0) == {64: (8, 8)}


def test_equinox_convolutions_with_biases(capsys):
    """The bias, (c, 1, 1), is no kernel."""
    params = arrays(eqx.nn.Conv2d(3, 64, 3, key=KEY))
    table = lgnn.som_table(params, neuron_axis=0)
    found = spread(params, table, "weight", (10, 0, 1, 1), neuron_axis=0)
    assert found == {(j, 0, 1, 1) for j in around(10, 8, 8)}
    assert spread(params, table, "bias", (10, 0, 0), neuron_axis=0) == {(10, 0, 0)}
    rows = shown(params, table, capsys, neuron_axis=0)
    assert rows["weight"].endswith(" 0 8x8 key 64; a convolution, by its square window")
    assert rows["bias"].endswith(" - - no kernel, by its name")


def test_pytorch_dicts():
    params = {
        "features.0.weight": np.zeros((64, 3, 3, 3), np.float32),
        "features.0.bias": np.zeros(64, np.float32),
        "layer1.0.downsample.0.weight": np.zeros((16, 64, 1, 1), np.float32),
        "classifier.weight": np.zeros((10, 64), np.float32),
    }
    refused(lambda: lgnn.som_table(params), "'features.0.weight'", "pass neuron_axis=0")
    table = lgnn.som_table(params, neuron_axis=0)
    assert table == {16: (4, 4), 64: (8, 8)}
    found = spread(params, table, "features.0.weight", (0, 2, 1, 1), neuron_axis=0)
    assert found == {(j, 2, 1, 1) for j in (0, 1, 8, 9)}
    assert lgnn.layer_maps(params, {r"features\.0": None, **table}, neuron_axis=0) == {
        "features.0.weight": None,
        "layer1.0.downsample.0.weight": LayerMap(lgnn.grid(4, 4), 0),
    }


def test_flax_kernels_under_neuron_axis_0():
    params = tree(Conv_0__kernel=(3, 3, 3, 64))
    refused(
        lambda: lgnn.som_table(params, neuron_axis=0),
        "'Conv_0/kernel' with shape (3, 3, 3, 64)",
        "pass neuron_axis=-1",
    )


def test_a_convolution_along_a_line():
    """Named so, it is one; without a name, the table has to say."""
    params = {"Conv_0": linen(nn.Conv(128, (3,)), 1, 8, 64)}
    assert by_path(params)["Conv_0/kernel"].shape == (3, 64, 128)
    table = lgnn.som_table(params)
    assert table == {128: (16, 8)}
    found = spread(params, table, "Conv_0/kernel", (1, 5, 0))
    assert found == {(1, 5, j) for j in (0, 1, 8, 9)}

    params = arrays(eqx.nn.Conv1d(3, 64, 5, key=KEY))
    with pytest.warns(UserWarning, match=r"left out: weight \(64, 3, 5\)") as caught:
        assert lgnn.som_table(params, neuron_axis=0) == {}
    (remedy,) = remedies(str(caught[0].message))
    found = spread(params, remedy, "weight", (10, 0, 1), neuron_axis=0)
    assert found == {(j, 0, 1) for j in around(10, 8, 8)}
    text = refused(lambda: lgnn.layer_maps(params, {64: (8, 8)}, neuron_axis=0), "'weight'")
    assert remedies(text) == [remedy]


# --- what README's two lines make of common networks ---------------------------------------------


RESNET = tree(
    conv_init__kernel=(7, 7, 3, 64),
    bn_init__scale=(64,),
    ResNetBlock_0__Conv_0__kernel=(3, 3, 64, 64),
    ResNetBlock_0__conv_proj__kernel=(1, 1, 64, 128),
    Dense_0__kernel=(512, 1000),
)
UNET = tree(
    down_0__Conv_0__kernel=(3, 3, 1, 32),
    up_0__ConvTranspose_0__kernel=(2, 2, 64, 32),
    up_0__attention__Conv_0__kernel=(1, 1, 64, 64),
    outputs__kernel=(1, 1, 32, 2),
)
DCGAN = tree(
    generator__ConvTranspose_0__kernel=(4, 4, 100, 512),
    generator__ConvTranspose_4__kernel=(4, 4, 64, 3),
    discriminator__Conv_5__kernel=(4, 4, 512, 1),
)
AGENT = tree(
    value_net__Conv_0__kernel=(8, 8, 4, 32),
    value_net__torso__kernel=(4, 4, 32, 64),
    key_encoder__stem__kernel=(5, 5, 3, 16),
    value_net__Dense_0__kernel=(512, 1),
)
CONVNEXT = tree(
    stem__kernel=(4, 4, 3, 96),
    block__depthwise__kernel=(7, 7, 1, 96),
    block__gamma=(1, 1, 1, 96),
    block__temperature=(1, 8, 1, 1),
)
DENSENET = tree(dense_block__0__layer__kernel=(3, 3, 64, 32), dense_block__0__norm__scale=(64,))
HAIKU = {
    "res_net/~/initial_conv": tree(w=(7, 7, 3, 64)),
    "res_net/~/block/batchnorm": tree(scale=(1, 1, 1, 64), offset=(1, 1, 1, 64)),
    "conv1_d": tree(w=(3, 64, 32), b=(32,)),
    "my_layer": tree(w=(3, 3, 64, 16), b=(16,)),
    "linear": tree(w=(64, 10), b=(10,)),
}
SPEECH = tree(conv1__kernel=(41, 11, 1, 32), conv2__kernel=(21, 11, 32, 32))


@pytest.mark.parametrize(
    ("params", "filtered"),
    [
        (
            RESNET,
            {
                "conv_init/kernel": "8x8",
                "ResNetBlock_0/Conv_0/kernel": "8x8",
                "ResNetBlock_0/conv_proj/kernel": "16x8",
            },
        ),
        (
            UNET,
            {
                "down_0/Conv_0/kernel": "8x4",
                "up_0/ConvTranspose_0/kernel": "8x4",
                "up_0/attention/Conv_0/kernel": "8x8",
                "outputs/kernel": "2x1",
            },
        ),
        (
            DCGAN,
            {
                "generator/ConvTranspose_0/kernel": "32x16",
                "generator/ConvTranspose_4/kernel": "3x1",
                "discriminator/Conv_5/kernel": "1x1",
            },
        ),
        (
            AGENT,
            {
                "value_net/Conv_0/kernel": "8x4",
                "value_net/torso/kernel": "8x8",
                "key_encoder/stem/kernel": "4x4",
            },
        ),
        (CONVNEXT, {"stem/kernel": "12x8", "block/depthwise/kernel": "12x8"}),
        (DENSENET, {"dense_block/0/layer/kernel": "8x4"}),
        (
            HAIKU,
            {"res_net/~/initial_conv/w": "8x8", "conv1_d/w": "8x4", "my_layer/w": "4x4"},
        ),
        (SPEECH, {"conv1/kernel": "8x4", "conv2/kernel": "8x4"}),
        (tree(patch_embed__kernel=(16, 16, 3, 768)), {"patch_embed/kernel": "32x24"}),
    ],
    ids=["resnet", "unet", "dcgan", "agent", "convnext", "densenet", "haiku", "speech", "patches"],
)
def test_two_lines_serve(params, filtered, capsys):
    """Without a warning, which here is an error."""
    table = lgnn.som_table(params)
    tx = lgnn.transform(table)
    tx.init(params)
    assert {p: str(m) for p, m in lgnn.layer_maps(params, table).items()} == filtered
    rows = shown(params, table, capsys)
    for path, text in rows.items():
        if path in filtered:
            assert f" -1 {filtered[path]} key " in text
        else:
            assert " - - no " in text or text.endswith(" - - a dense layer, by its two axes")


def test_five_colours_on_a_strip_are_worth_a_warning_and_three_are_not():
    with pytest.warns(UserWarning, match=r"5 output channels.*\(5, 1\)"):
        lgnn.som_table(tree(conv__kernel=(4, 4, 64, 5)))
    assert lgnn.som_table(tree(conv__kernel=(4, 4, 64, 3))) == {3: (3, 1)}


# --- dense layers ------------------------------------------------------------


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16)(x)
        return nn.Dense(10)(x)


NOTHING = "nothing is filtered. lgnn_jax.explain(params, som_table) says why. For dense layers, "


@pytest.mark.parametrize("table", [{}, {16: (4, 4)}])
def test_a_perceptron_is_told_that_nothing_is_filtered(table, capsys):
    params = linen(Perceptron(), 1, 6)
    assert lgnn.som_table(params) == {}
    with pytest.warns(UserWarning, match=re.escape(NOTHING + "lgnn_jax.som_table(params, dense")):
        lgnn.transform(table).init(params)
    rows = shown(params, table, capsys)
    assert rows["Dense_0/kernel"].endswith(" - - a dense layer, by its two axes")


def test_dense_layers_in_one_word(capsys):
    params = linen(Perceptron(), 1, 6)
    table = lgnn.som_table(params, dense=True)
    assert list(table.values()) == [(4, 4), (5, 2)]
    found = spread(params, table, "Dense_0/kernel", (2, 5))
    assert found == {(2, j) for j in around(5, 4, 4)}
    assert spread(params, table, "Dense_0/bias", (5,)) == {(5,)}
    assert (
        " -1 5x2 key '^Dense_1/kernel$'; a dense layer"
        in (shown(params, table, capsys)["Dense_1/kernel"])
    )
    params = arrays(eqx.nn.MLP(6, 4, 16, 1, key=KEY))
    table = lgnn.som_table(params, dense=True, neuron_axis=0)
    found = spread(params, table, "layers/0/weight", (5, 2), neuron_axis=0)
    assert found == {(j, 2) for j in around(5, 4, 4)}


# --- layers stacked by a scan ------------------------------------------------------------


def scanned(layer, length):
    """A network of `length` layers, their parameters stacked."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layer()(x), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=length
            )
            return scan(name="layers")(x, None)[0]

    return Stack()


def test_stacked_dense_layers_are_as_one():
    params = linen(scanned(lambda: nn.Dense(64), 6), 1, 64)
    assert by_path(params)["layers/Dense_0/kernel"].shape == (6, 64, 64)
    assert lgnn.som_table(params) == {}
    with pytest.warns(UserWarning, match="nothing is filtered"):
        lgnn.transform({64: (8, 8)}).init(params)
    assert lgnn.layer_maps(params, {64: (8, 8)}) == {}


def test_stacked_convolutions_are_filtered_layer_by_layer():
    params = linen(scanned(lambda: nn.Conv(16, (3, 3)), 2), 1, 4, 4, 16)
    path = "layers/Conv_0/kernel"
    assert by_path(params)[path].shape == (2, 3, 3, 16, 16)
    table = lgnn.som_table(params)
    assert spread(params, table, path, (1, 0, 2, 7, 5)) == {
        (1, 0, 2, 7, j) for j in around(5, 4, 4)
    }
    assert spread(params, table, "layers/Conv_0/bias", (1, 5)) == {(1, 5)}


def test_stacked_attention_is_no_convolution():
    """Of as many layers as heads, even: (4, 4, 8, 32) would be a window of 4x4."""
    layer = scanned(lambda: nn.MultiHeadDotProductAttention(num_heads=4), 4)
    params = {"model": linen(layer, 1, 3, 32), **tree(Conv_0__kernel=(3, 3, 3, 32))}
    out = "model/layers/MultiHeadDotProductAttention_0/out/kernel"
    assert by_path(params)[out].shape == (4, 4, 8, 32)
    table = lgnn.som_table(params)
    lgnn.transform(table).init(params)
    assert list(lgnn.layer_maps(params, table)) == ["Conv_0/kernel"]


# --- attention ------------------------------------------------------------


@pytest.fixture(scope="module")
def attention():
    """(features, heads, head size) = (64, 8, 16), beside a convolution of as many neurons."""
    layer = nn.MultiHeadDotProductAttention(num_heads=8, qkv_features=128, out_features=16)
    params = linen(layer, 1, 4, 64)
    assert params["query"]["kernel"].shape == (64, 8, 16)
    return params


def test_attention_is_left_alone(attention, capsys):
    params = {**attention, **tree(Conv_0__kernel=(3, 3, 3, 16))}
    table = lgnn.som_table(params)
    lgnn.transform(table).init(params)
    assert list(lgnn.layer_maps(params, table)) == ["Conv_0/kernel"]
    rows = shown(params, table, capsys)
    assert rows["query/kernel"].endswith(" - - no convolution, by its name (query)")
    assert "beside its query" in rows["out/kernel"]
    assert spread(params, table, "query/kernel", (3, 2, 5)) == {(3, 2, 5)}


@pytest.mark.parametrize(
    ("layer_map", "expected"),
    [
        (LayerMap(lgnn.grid(4, 4)), {(3, 2, j) for j in around(5, 4, 4)}),
        (LayerMap(lgnn.grid(4, 2), 1), {(3, j, 5) for j in around(2, 4, 2)}),
        # Heads down, features across.
        (
            LayerMap(lgnn.grid(8, 16), (1, 2)),
            {(3, h, f) for h in (1, 2, 3) for f in (4, 5, 6)},
        ),
        # 2 * 16 + 5 = 37th of 128, in rows of 8.
        (
            LayerMap(lgnn.grid(16, 8), (1, 2)),
            {(3, *divmod(j, 16)) for j in around(37, 16, 8)},
        ),
    ],
    ids=["features", "heads", "both", "both, folded"],
)
def test_heads_features_or_both(attention, layer_map, expected, capsys):
    """And the bias of the named layer is left alone."""
    table = {"query": layer_map}
    assert spread(attention, table, "query/kernel", (3, 2, 5)) == expected
    assert spread(attention, table, "query/bias", (2, 5)) == {(2, 5)}
    assert spread(attention, table, "value/kernel", (3, 2, 5)) == {(3, 2, 5)}
    text = shown(attention, table, capsys)["query/kernel"]
    assert f"{layer_map.neuron_axis} {layer_map} key 'query'" in text


def test_a_bias_that_is_named_wholly(attention):
    table = {"query": (4, 4), "query/bias": LayerMap(lgnn.grid(8, 16), (0, 1))}
    assert spread(attention, table, "query/bias", (2, 5)) == {
        (h, f) for h in (1, 2, 3) for f in (4, 5, 6)
    }


def test_both_axes_on_a_plain_pair_are_refused_with_the_remedy(attention, capsys):
    table = {"query": (8, 16)}
    text = refused(
        lambda: lgnn.transform(table).init(attention), "'query/kernel' with shape (64, 8, 16)"
    )
    (remedy,) = re.findall(r"LayerMap\(.*\)\)", text)
    found = lgnn.layer_maps(
        attention, {"query": eval(remedy, {"LayerMap": LayerMap, "grid": lgnn.grid})}
    )
    assert found == {"query/kernel": LayerMap(lgnn.grid(8, 16), (-2, -1))}
    assert "refused: SOM dimensions (8, 16)" in shown(attention, table, capsys)["query/kernel"]


def test_a_key_that_names_only_biases_is_told(attention):
    with pytest.warns(UserWarning, match="key 'bias' matches biases .* key/bias") as caught:
        lgnn.transform({"bias": (4, 4), "out": (4, 4)}).init(attention)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is left alone anyway needs no whole path
        lgnn.transform({"bias": None, "out": (4, 4)}).init(attention)


# --- a vision transformer ------------------------------------------------------------


class VisionTransformer(nn.Module):
    """After the one of big_vision: stacked blocks, and all the small parameters around them."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(32, (4, 4), strides=4, padding="VALID", name="embedding")(x)
        x = x.reshape(len(x), -1, 32)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, 32))
        registers = self.param("registers", nn.initializers.zeros, (1, 4, 32))
        x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = x + self.param("pos_embed", nn.initializers.zeros, (1, x.shape[1], 32))
        x = jnp.concatenate([x, jnp.tile(registers, (len(x), 1, 1))], axis=1)

        class MlpBlock(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(32, name="down")(nn.gelu(nn.Dense(64, name="up")(x)))

        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
                return x + MlpBlock(name="mlp")(nn.LayerNorm()(x)), None

        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
        x, _ = scan(name="encoder")(x, None)
        return nn.Dense(10, name="head")(x[:, 0])


def test_a_vision_transformer(capsys):
    """Its patches are a convolution, and nothing else is."""
    params = linen(VisionTransformer(), 1, 8, 8, 3)
    assert by_path(params)["encoder/mlp/up/kernel"].shape == (4, 32, 64)
    table = lgnn.som_table(params)
    assert table == {32: (8, 4)}
    for path, index in {
        "pos_embed": (0, 2, 9),
        "cls": (0, 0, 9),
        "registers": (0, 2, 9),
        "encoder/mlp/down/kernel": (1, 2, 9),
        "encoder/MultiHeadDotProductAttention_0/out/kernel": (1, 2, 3, 9),
    }.items():
        assert spread(params, table, path, index) == {index}
    found = spread(params, table, "embedding/kernel", (1, 2, 0, 9))
    assert found == {(1, 2, 0, j) for j in around(9, 8, 4)}
    rows = shown(params, table, capsys)
    assert [path for path, text in rows.items() if " key 32" in text] == ["embedding/kernel"]


# --- groups ------------------------------------------------------------


@pytest.mark.parametrize("groups", [4, 16])
def test_grouped_convolutions(groups, capsys):
    """One map over all, or one for each group, by choice; of depthwise ones it is said."""
    layer = nn.Conv(64, (3, 3), feature_group_count=groups)
    params = {"Conv_0": linen(layer, 1, 8, 8, 16)}
    path = "Conv_0/kernel"
    assert by_path(params)[path].shape == (3, 3, 16 // groups, 64)
    table = lgnn.som_table(params)
    last = 64 // groups - 1  # of the first group
    found = spread(params, table, path, (1, 1, 0, last))
    assert found == {(1, 1, 0, j) for j in around(last, 8, 8)}
    text = shown(params, table, capsys)[path]
    assert ("see LayerMap.groups" in text) == (groups == 16)
    each = lgnn.som_dimensions(64 // groups)
    table = {"Conv_0": LayerMap(lgnn.grid(*each), groups=groups)}
    found = spread(params, table, path, (1, 1, 0, last))
    assert found == {(1, 1, 0, j) for j in around(last, *each)}
    name = f"{groups} of {each[0]}x{each[1]}"
    assert f" -1 {name} key 'Conv_0'" in shown(params, table, capsys)[path]


def test_depthwise_convolutions_of_equinox(capsys):
    params = arrays(eqx.nn.Conv2d(16, 64, 3, groups=16, key=KEY))
    table = lgnn.som_table(params, neuron_axis=0)
    assert "see LayerMap.groups" in shown(params, table, capsys, neuron_axis=0)["weight"]
    table = {"weight": LayerMap(lgnn.grid(2, 2), 0, groups=16)}
    found = spread(params, table, "weight", (3, 0, 1, 1))
    assert found == {(j, 0, 1, 1) for j in range(4)}


# --- names ------------------------------------------------------------


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, rngs=rngs, decode=False)
        self.head = nnx.Linear(16, 10, rngs=rngs)


@pytest.fixture(scope="module")
def state():
    return nnx.state(Network(nnx.Rngs(0)), nnx.Param)


@pytest.mark.parametrize("pure", [False, True])
def test_paths_of_nnx_are_the_names_people_see(state, pure, capsys):
    params = nnx.to_pure_dict(state) if pure else state
    paths = set(by_path(params))
    assert {"conv1/kernel", "attention/value/kernel", "norm/scale"} <= paths
    assert not any(path.endswith("/value") for path in paths)
    found = spread(params, {"^conv1/kernel$": (4, 4)}, "conv1/kernel", (0, 1, 2, 5))
    assert found == {(0, 1, 2, j) for j in around(5, 4, 4)}
    table = lgnn.som_table(params)
    lgnn.transform(table).init(params)
    assert list(lgnn.layer_maps(params, table)) == ["conv1/kernel"]
    assert shown(params, table, capsys)["conv1/kernel"].endswith(
        " -1 4x4 key 16; a convolution, by its name"
    )


def test_paths_of_boxed_parameters_are_the_names_people_see():
    init = nn.with_partitioning(nn.initializers.zeros, (None, None, None, "model"))
    module = nn.Conv(16, (3, 3), kernel_init=init)
    params = {"conv1": module.init(KEY, jnp.zeros((1, 4, 4, 3)))["params"]}
    assert isinstance(params["conv1"]["kernel"], nn.Partitioned)
    assert set(by_path(params)) == {"conv1/kernel", "conv1/bias"}
    found = spread(params, {"^conv1/kernel$": (4, 4)}, "conv1/kernel", (0, 1, 2, 5))
    assert found == {(0, 1, 2, j) for j in around(5, 4, 4)}
    assert lgnn.som_table(params) == {16: (4, 4)}


def test_a_layer_that_is_called_value_keeps_its_name(attention):
    assert {"value/kernel", "value/bias"} <= set(by_path(attention))


def test_a_remedy_means_one_parameter():
    params = tree(conv__kernel=(3, 3, 3, 48), deconv__kernel=(3, 3, 48, 64))
    text = refused(lambda: lgnn.layer_maps(params, {64: (8, 8)}), "'conv/kernel'", "48: (8, 6)")
    key = re.search(r"or '(.*)': None", text)[1]
    found = lgnn.layer_maps(params, {key: None, 64: (8, 8)})
    assert found["conv/kernel"] is None
    assert found["deconv/kernel"] == LayerMap(lgnn.grid(8, 8), -1)


def test_explain_of_a_long_path(capsys):
    params = {"Transformer": {"encoderblock_0": {"MultiHeadDotProductAttention_1": {}}}}
    params["Transformer"]["encoderblock_0"]["MultiHeadDotProductAttention_1"] = tree(
        query__kernel=(64, 4, 16)
    )
    path = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
    lgnn.explain(params, {"query": lgnn.sphere(16)})
    header, name, row, *more = capsys.readouterr().out.splitlines()
    assert name == path
    assert row.index("(64, 4, 16)") == header.index("shape")
    assert row.index("sphere of 16") == header.index("map")
    assert row.index("key 'query'") == header.index("why")
    assert not more
