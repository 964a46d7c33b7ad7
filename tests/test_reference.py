"""Checks of the numpy reference itself, against hand-solved cases and finite differences."""

import numpy as np
import pytest
import reference

EDGE, CENTRE = 0.1065069789, 0.7869860421  # the normalised taps 1 and e^-2 at sigma 0.5


def _map(values, dims, **options):
    """Filter one map of neurons given as an array of shape dims."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return reference.low_pass(flat, dims, **options).reshape(dims)


def _impulse(dims, position):
    """Return a map of zeros with a single one."""
    values = np.zeros(dims)
    values[position] = 1.0
    return values


# The Gaussian window.


def test_taps_at_sigma_one_half():
    window = reference.gaussian(0.5, 3)
    np.testing.assert_allclose(window, np.outer([EDGE, CENTRE, EDGE], [EDGE, CENTRE, EDGE]))
    np.testing.assert_allclose(window.sum(axis=0), [0.1065, 0.7870, 0.1065], atol=5e-5)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("sigma", [0.0, 0.25, 0.5, 2.0])
def test_window_is_normalised_and_symmetric(sigma, size):
    window = reference.gaussian(sigma, size)
    assert window.shape == (size, size)
    assert window.sum() == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_array_equal(window, window.T)
    np.testing.assert_array_equal(window, window[::-1])


def test_sigma_zero_is_a_delta_and_the_limit_of_small_sigma():
    np.testing.assert_array_equal(reference.gaussian(0, 3), _impulse((3, 3), (1, 1)))
    np.testing.assert_array_equal(reference.gaussian(0.01, 3), _impulse((3, 3), (1, 1)))


def test_even_size_and_negative_sigma_are_refused():
    with pytest.raises(ValueError, match="odd"):
        reference.gaussian(0.5, 4)
    with pytest.raises(ValueError, match="negative"):
        reference.gaussian(-0.5, 3)


# The low-pass filter.


def test_impulse_in_the_middle_becomes_the_window():
    filtered = _map(_impulse((4, 5), (2, 2)), (4, 5))
    expected = np.zeros((4, 5))
    expected[1:4, 1:4] = np.outer([EDGE, CENTRE, EDGE], [EDGE, CENTRE, EDGE])
    np.testing.assert_allclose(filtered, expected, atol=1e-10)


@pytest.mark.parametrize(
    ("padding", "row_taps", "column_taps"),
    [
        # Replication copies the corner outwards, so it keeps its outer tap as well.
        ("replicate", [CENTRE + EDGE, EDGE, 0, 0], [CENTRE + EDGE, EDGE, 0]),
        ("wrap", [CENTRE, EDGE, 0, EDGE], [CENTRE, EDGE, EDGE]),
        ("zero", [CENTRE, EDGE, 0, 0], [CENTRE, EDGE, 0]),
    ],
)
def test_impulse_in_a_corner(padding, row_taps, column_taps):
    filtered = _map(_impulse((4, 3), (0, 0)), (4, 3), padding=padding)
    np.testing.assert_allclose(filtered, np.outer(row_taps, column_taps), atol=1e-10)


def test_neurons_are_laid_out_row_by_row():
    # On a map of 2 by 4, neuron 5 is at (1, 1): beside 4 and 6, below 1, diagonal to 0 and 2.
    filtered = reference.low_pass(_impulse(8, 5), (2, 4), padding="zero")
    side, diagonal = CENTRE * EDGE, EDGE**2
    expected = [diagonal, side, diagonal, 0, side, CENTRE**2, side, 0]
    np.testing.assert_allclose(filtered, expected, atol=1e-10)


@pytest.mark.parametrize("padding", ["replicate", "wrap"])
@pytest.mark.parametrize(("dims", "size"), [((4, 8), 3), ((2, 4), 7), ((1, 1), 5)])
def test_constants_are_preserved(padding, dims, size):
    filtered = _map(np.full(dims, 3.5), dims, sigma=1.3, size=size, padding=padding)
    np.testing.assert_allclose(filtered, 3.5, rtol=1e-14)


def test_zero_padding_loses_weight_at_the_border():
    filtered = _map(np.ones((3, 3)), (3, 3), padding="zero")
    inner = [1 - EDGE, 1.0, 1 - EDGE]
    np.testing.assert_allclose(filtered, np.outer(inner, inner), atol=1e-9)


def test_wrap_conserves_the_total():
    values = np.random.default_rng(0).normal(size=(4, 4))
    filtered = _map(values, (4, 4), size=5, sigma=1.0, padding="wrap")
    assert filtered.sum() == pytest.approx(values.sum(), rel=1e-12)


@pytest.mark.parametrize("padding", ["replicate", "wrap", "zero"])
def test_pad_wider_than_the_map(padding):
    # Size 7 pads a row of two neurons (a, b) by three: aaa|ab|bbb, bab|ab|aba or 000|ab|000.
    a, b = 2.0, 5.0
    line = {
        "replicate": [a, a, a, a, b, b, b, b],
        "wrap": [b, a, b, a, b, a, b, a],
        "zero": [0, 0, 0, a, b, 0, 0, 0],
    }[padding]
    taps = np.exp(-(np.arange(-3.0, 4.0) ** 2) / 2)
    taps /= taps.sum()
    vertical = taps[3] if padding == "zero" else 1.0
    expected = [vertical * taps @ line[:7], vertical * taps @ line[1:]]
    filtered = reference.low_pass([a, b], (1, 2), sigma=1.0, size=7, padding=padding)
    np.testing.assert_allclose(filtered, expected, rtol=1e-13)


def test_each_weight_position_is_filtered_on_its_own():
    gradient = np.random.default_rng(1).normal(size=(3, 3, 2, 12))
    filtered = reference.low_pass(gradient, (3, 4))
    assert filtered.shape == gradient.shape
    for index in np.ndindex(3, 3, 2):
        np.testing.assert_allclose(filtered[index], reference.low_pass(gradient[index], (3, 4)))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -4])
def test_neuron_axis_may_be_anywhere(axis):
    gradient = np.random.default_rng(2).normal(size=(3, 3, 2, 8))
    moved = reference.low_pass(np.moveaxis(gradient, -1, axis), (2, 4), neuron_axis=axis)
    np.testing.assert_array_equal(
        moved, np.moveaxis(reference.low_pass(gradient, (2, 4)), -1, axis)
    )


def test_sigma_zero_leaves_the_gradient_alone():
    gradient = np.random.default_rng(3).normal(size=(5, 6))
    np.testing.assert_array_equal(reference.low_pass(gradient, (2, 3), sigma=0), gradient)


def test_wrong_map_and_padding_are_refused():
    with pytest.raises(ValueError, match="map"):
        reference.low_pass(np.zeros(8), (3, 3))
    with pytest.raises(ValueError, match="padding"):
        reference.low_pass(np.zeros(8), (2, 4), padding="mirror")


# Layers.


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(6, 4), (5, 7)])
def test_convolution_against_a_direct_loop(size, stride, shape):
    rng = np.random.default_rng(4)
    height, width = shape
    images, kernel = rng.normal(size=(2, height, width, 3)), rng.normal(size=(size, size, 3, 2))
    half = size // 2
    expected = np.zeros((2, -(-height // stride), -(-width // stride), 2))
    for n, row, column, o in np.ndindex(expected.shape):
        for u, v, i in np.ndindex(size, size, 3):
            y, x = row * stride + u - half, column * stride + v - half
            if 0 <= y < height and 0 <= x < width:
                expected[n, row, column, o] += images[n, y, x, i] * kernel[u, v, i, o]
    np.testing.assert_allclose(
        reference.convolution(images, kernel, stride), expected, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_backward_is_the_adjoint(stride):
    # The convolution is linear in either argument: <conv(x', k), g> = <x', dx>, <conv(x, k'), g>
    # = <k', dk>.
    rng = np.random.default_rng(5)
    x, other_x = rng.normal(size=(2, 2, 5, 6, 3))
    k, other_k = rng.normal(size=(2, 3, 3, 3, 4))
    g = rng.normal(size=reference.convolution(x, k, stride).shape)
    dx, dk = reference.convolution_backward(x, k, g, stride)
    assert np.vdot(reference.convolution(other_x, k, stride), g) == pytest.approx(
        np.vdot(other_x, dx), rel=1e-12
    )
    assert np.vdot(reference.convolution(x, other_k, stride), g) == pytest.approx(
        np.vdot(other_k, dk), rel=1e-12
    )


def test_max_pool_and_its_gradient_by_hand():
    x = np.array([[1.0, 5, 2, 0, 9], [3, 4, 8, 7, 9], [9, 9, 9, 9, 9]]).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(reference.max_pool(x).ravel(), [5, 8])
    gradient = reference.max_pool_backward(x, np.array([10.0, 20.0]).reshape(1, 1, 2, 1))
    expected = [[0, 10, 0, 0, 0], [0, 0, 20, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


def test_cross_entropy_by_hand():
    # Probabilities (1/4, 3/4) and (1/2, 1/2), with the first logits far from zero.
    logits = np.array([[1000.0, 1000.0 + np.log(3.0)], [0.0, 0.0]])
    loss, gradient = reference.cross_entropy(logits, np.array([0, 1]))
    assert loss == pytest.approx((np.log(4.0) + np.log(2.0)) / 2)
    np.testing.assert_allclose(gradient, [[-0.375, 0.375], [0.25, -0.25]])


# VGG.

BLOCKS = ((2,), (3,), (3, 4))
CLASSES = 5


def _vgg():
    """Return (params, batch_stats, images, labels) of a tiny VGG, leaving 2 by 1 positions."""
    rng = np.random.default_rng(6)
    params, batch_stats, channels = {}, {}, 3
    for block, widths in enumerate(BLOCKS, start=1):
        for index, width in enumerate(widths, start=1):
            kernel = rng.normal(size=(3, 3, channels, width)) / np.sqrt(9 * channels)
            params[f"conv{block}_{index}"] = {"kernel": kernel, "bias": rng.normal(size=width)}
            params[f"bn{block}_{index}"] = {
                "scale": rng.uniform(0.5, 1.5, width),
                "bias": 0.3 * rng.normal(size=width),
            }
            batch_stats[f"bn{block}_{index}"] = {
                "mean": rng.normal(size=width),
                "var": rng.uniform(0.5, 1.5, width),
            }
            channels = width
    head = rng.normal(size=(channels, CLASSES))
    params["head"] = {"kernel": head, "bias": rng.normal(size=CLASSES)}
    return params, batch_stats, rng.normal(size=(4, 16, 8, 3)), rng.integers(0, CLASSES, 4)


LEAVES = [(layer, name) for layer, leaves in _vgg()[0].items() for name in leaves]


@pytest.mark.parametrize(("layer", "name"), LEAVES)
def test_vgg_gradients_against_central_differences(layer, name):
    params, batch_stats, images, labels = _vgg()
    gradient = reference.vgg_loss_and_gradients(params, batch_stats, images, labels, BLOCKS)[2]
    gradient = gradient[layer][name]
    leaf = params[layer][name]
    assert gradient.shape == leaf.shape
    # A short step: the loss is smooth only until a ReLU or a maximum changes sides.
    step = 1e-5
    rng = np.random.default_rng(7)
    for position in rng.choice(leaf.size, min(leaf.size, 8), replace=False):
        index = np.unravel_index(position, leaf.shape)
        start, losses = leaf[index], []
        for moved in (start + step, start - step):
            leaf[index] = moved
            losses.append(
                reference.vgg_loss_and_gradients(params, batch_stats, images, labels, BLOCKS)[0]
            )
        leaf[index] = start
        slope = (losses[0] - losses[1]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, rel=1e-6, abs=2e-9)


def test_vgg_gradients_are_present_and_not_trivial():
    params, batch_stats, images, labels = _vgg()
    gradients = reference.vgg_loss_and_gradients(params, batch_stats, images, labels, BLOCKS)[2]
    assert list(gradients) == list(params)
    for layer, name in LEAVES:
        size = np.abs(gradients[layer][name]).max()
        # Batch norm removes what a convolution's bias adds, so that gradient alone vanishes.
        vanishes = layer.startswith("conv") and name == "bias"
        assert size < 1e-14 if vanishes else size > 1e-3


def test_vgg_loss_belongs_to_its_logits():
    params, batch_stats, images, labels = _vgg()
    loss, logits, _, _ = reference.vgg_loss_and_gradients(
        params, batch_stats, images, labels, BLOCKS
    )
    assert logits.shape == (4, CLASSES)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    picked = [probabilities[n, label] for n, label in enumerate(labels)]
    assert loss == pytest.approx(-np.mean(np.log(picked)), rel=1e-12)


def test_vgg_by_hand():
    # A kernel of the centre tap alone and a batch of one 2x2 image with values -3, -1, 1, 3:
    # variance 5, maximum 3 after pooling.
    kernel = np.zeros((3, 3, 1, 1))
    kernel[1, 1] = 1.0
    params = {
        "conv1_1": {"kernel": kernel, "bias": np.array([4.0])},
        "bn1_1": {"scale": np.array([2.0]), "bias": np.array([0.5])},
        "head": {"kernel": np.array([[1.0, -1.0]]), "bias": np.array([0.0, 1.0])},
    }
    batch_stats = {"bn1_1": {"mean": np.array([10.0]), "var": np.array([20.0])}}
    images = np.array([-3.0, -1.0, 1.0, 3.0]).reshape(1, 2, 2, 1)
    _, logits, _, statistics = reference.vgg_loss_and_gradients(
        params, batch_stats, images, [0], ((1,),)
    )
    feature = 2.0 * 3.0 / np.sqrt(5.0 + 1e-5) + 0.5
    np.testing.assert_allclose(logits, [[feature, 1.0 - feature]], rtol=1e-12)
    np.testing.assert_allclose(statistics["bn1_1"]["mean"], [9.4], rtol=1e-12)
    np.testing.assert_allclose(statistics["bn1_1"]["var"], [18.5], rtol=1e-12)


# Optimiser.


def test_two_sgd_steps_by_hand():
    params = {"layer": {"kernel": np.array([2.0]), "bias": np.array([-1.0])}}
    buffers = {"layer": {"kernel": np.zeros(1), "bias": np.zeros(1)}}
    gradients = {"layer": {"kernel": np.array([1.0]), "bias": np.array([0.5])}}
    # Decay 0.1: gradients 1.2 and 0.4; rate 0.5: parameters 2 - 0.6 and -1 - 0.2.
    params, buffers = reference.sgd_step(params, buffers, gradients, 0.5, 0.9, 0.1)
    assert buffers["layer"]["kernel"] == pytest.approx([1.2])
    assert buffers["layer"]["bias"] == pytest.approx([0.4])
    assert params["layer"]["kernel"] == pytest.approx([1.4])
    assert params["layer"]["bias"] == pytest.approx([-1.2])
    # Buffers 1.08 + 1.14 and 0.36 + 0.38; rate 0.1 applies to the whole buffer.
    params, buffers = reference.sgd_step(params, buffers, gradients, 0.1, 0.9, 0.1)
    assert buffers["layer"]["kernel"] == pytest.approx([2.22])
    assert buffers["layer"]["bias"] == pytest.approx([0.74])
    assert params["layer"]["kernel"] == pytest.approx([1.178])
    assert params["layer"]["bias"] == pytest.approx([-1.274])


def test_sgd_defaults_and_structure():
    new_params, new_buffers = reference.sgd_step({"a": 4.0}, {"a": 10.0}, {"a": 1.0}, 0.1)
    assert new_buffers["a"] == pytest.approx(9.0 + 1.0 + 0.002, rel=1e-14)
    assert new_params["a"] == pytest.approx(4.0 - 1.0002, rel=1e-14)
    with pytest.raises(ValueError, match="keys"):
        reference.sgd_step({"a": 4.0}, {"a": 10.0}, {"b": 1.0}, 0.1)


# Wide ResNet.


def _norm_leaves(rng, channels):
    """Return random (parameters, statistics) of one batch norm."""
    parameters = {"scale": rng.uniform(0.5, 1.5, channels), "bias": rng.normal(size=channels)}
    return parameters, {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)}


def _wide_resnet(depth, widen, classes=3):
    """Return (params, batch_stats) of a random Wide ResNet, its layers listed by hand."""
    rng = np.random.default_rng(8)

    def kernel(size, inputs, outputs):
        values = rng.normal(size=(size, size, inputs, outputs))
        return {"kernel": values / np.sqrt(size * size * inputs)}

    params, batch_stats, channels = {"stem": kernel(3, 3, 16)}, {}, 16
    for group in (1, 2, 3):
        width = {1: 16, 2: 32, 3: 64}[group] * widen
        params[f"group{group}"], batch_stats[f"group{group}"] = {}, {}
        for block in range(1, (depth - 4) // 6 + 1):
            bn1, bn1_stats = _norm_leaves(rng, channels)
            bn2, bn2_stats = _norm_leaves(rng, width)
            layers = {"bn1": bn1, "conv1": kernel(3, channels, width), "bn2": bn2}
            layers["conv2"] = kernel(3, width, width)
            if channels != width:
                layers["shortcut"] = kernel(1, channels, width)
            params[f"group{group}"][f"block{block}"] = layers
            batch_stats[f"group{group}"][f"block{block}"] = {"bn1": bn1_stats, "bn2": bn2_stats}
            channels = width
    params["bn"], batch_stats["bn"] = _norm_leaves(rng, channels)
    params["head"] = {"kernel": rng.normal(size=(channels, classes)), "bias": np.ones(classes)}
    return params, batch_stats


def _plain_norm(leaves, statistics):
    """Make a batch norm the identity in evaluation mode."""
    leaves["scale"][:], leaves["bias"][:] = 1.0, 0.0
    statistics["mean"][:], statistics["var"][:] = 0.0, 1.0 - 1e-5


def _bare_wide_resnet():
    """Return a depth-10 network, widening 1, without normalisation and with conv2 silenced."""
    params, batch_stats = _wide_resnet(10, 1)
    for group in (1, 2, 3):
        layers = params[f"group{group}"]["block1"]
        statistics = batch_stats[f"group{group}"]["block1"]
        for name in ("bn1", "bn2"):
            _plain_norm(layers[name], statistics[name])
        layers["conv2"]["kernel"][:] = 0.0
    _plain_norm(params["bn"], batch_stats["bn"])
    return params, batch_stats


IMAGES = np.random.default_rng(9).normal(size=(2, 8, 8, 3))


def test_wide_resnet_shortcut_reads_the_activated_stream():
    params, batch_stats = _bare_wide_resnet()
    _, activations = reference.wide_resnet_logits(params, batch_stats, IMAGES, 10, 1, train=False)
    stem = reference.convolution(IMAGES, params["stem"]["kernel"])
    np.testing.assert_allclose(activations["stem"][0], stem, rtol=1e-12)
    # With conv2 silent, group 1 (whose shortcut is the identity) hands on the raw stem, and the
    # later groups a projection of the rectified stream at every second position.
    np.testing.assert_allclose(activations["group1/block1/conv2"][0], stem, rtol=1e-12)
    stream = stem
    for group in (2, 3):
        projection = params[f"group{group}"]["block1"]["shortcut"]["kernel"][0, 0]
        stream = np.maximum(stream, 0)[:, ::2, ::2] @ projection
        pre, post = activations[f"group{group}/block1/shortcut"]
        np.testing.assert_allclose(pre, stream, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(post, np.maximum(stream, 0), rtol=1e-11, atol=1e-13)
    features = np.maximum(stream, 0).mean(axis=(1, 2))
    logits, _ = reference.wide_resnet_logits(params, batch_stats, IMAGES, 10, 1, train=False)
    np.testing.assert_allclose(logits, features @ params["head"]["kernel"] + 1.0, rtol=1e-11)


def test_wide_resnet_strided_convolution_pads_by_one_on_each_side():
    params, batch_stats = _bare_wide_resnet()
    kernel = params["group2"]["block1"]["conv1"]["kernel"]
    kernel[:] = 0.0
    kernel[0, 0, :16, :16] = np.eye(16)  # reads one row above and one column to the left
    _, activations = reference.wide_resnet_logits(params, batch_stats, IMAGES, 10, 1, train=False)
    o, pre = activations["group1/block1/conv2"][1], activations["group2/block1/conv1"][0]
    assert pre.shape == (2, 4, 4, 32)
    np.testing.assert_array_equal(pre[:, 0], 0.0)
    np.testing.assert_array_equal(pre[:, :, 0], 0.0)
    np.testing.assert_allclose(pre[:, 1:, 1:, :16], o[:, 1:-1:2, 1:-1:2], rtol=1e-12)


def test_wide_resnet_conv2_adds_to_the_identity():
    params, batch_stats = _bare_wide_resnet()
    layers = params["group1"]["block1"]
    layers["conv2"]["kernel"][:] = np.random.default_rng(10).normal(size=(3, 3, 16, 16))
    _, activations = reference.wide_resnet_logits(params, batch_stats, IMAGES, 10, 1, train=False)
    inner = activations["group1/block1/conv1"][1]
    expected = activations["stem"][0] + reference.convolution(inner, layers["conv2"]["kernel"])
    np.testing.assert_allclose(activations["group1/block1/conv2"][0], expected, rtol=1e-10)


@pytest.mark.parametrize("train", [True, False])
def test_wide_resnet_activations(train):
    params, batch_stats = _wide_resnet(16, 2)
    logits, activations = reference.wide_resnet_logits(
        params, batch_stats, IMAGES, 16, 2, train=train
    )
    paths = {f"group{g}/block{b}/conv{c}" for g in (1, 2, 3) for b in (1, 2) for c in (1, 2)}
    paths |= {"stem"} | {f"group{g}/block1/shortcut" for g in (1, 2, 3)}
    assert set(activations) == paths
    for path, (pre, post) in activations.items():
        group = 1 if path == "stem" else int(path[5])
        channels = 16 if path == "stem" else 16 * 2**group
        side = 8 // 2 ** (group - 1)
        assert pre.shape == (2, side, side, channels)
        np.testing.assert_array_equal(post, np.maximum(pre, 0))
    for group in (1, 2, 3):
        shortcut, conv2 = (activations[f"group{group}/block1/{n}"] for n in ("shortcut", "conv2"))
        np.testing.assert_array_equal(shortcut[0], conv2[0])
    features = activations["group3/block2/conv2"][1].mean(axis=(1, 2))
    np.testing.assert_allclose(logits, features @ params["head"]["kernel"] + 1.0, rtol=1e-12)
    # Only the batch's own moments leave each channel at mean `bias` and deviation `scale`.
    pre = activations["group2/block2/conv1"][0]
    leaves = params["group2"]["block2"]["bn2"]
    normalised = np.allclose(pre.mean(axis=(0, 1, 2)), leaves["bias"]) and np.allclose(
        pre.std(axis=(0, 1, 2)), leaves["scale"], rtol=1e-3
    )
    assert normalised == train


def test_wide_resnet_refuses_other_depths_and_stray_shortcuts():
    params, batch_stats = _wide_resnet(10, 1)
    with pytest.raises(ValueError, match="6n"):
        reference.wide_resnet_logits(params, batch_stats, IMAGES, 12, 1, train=False)
    params["group1"]["block1"]["shortcut"] = {"kernel": np.zeros((1, 1, 16, 16))}
    with pytest.raises(ValueError, match="shortcut"):
        reference.wide_resnet_logits(params, batch_stats, IMAGES, 10, 1, train=False)
