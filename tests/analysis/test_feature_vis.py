import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lgnn_jax.analysis.feature_vis import (
    Visualization,
    exceeds_best,
    mean_activations,
    visualize,
)
from lgnn_jax.models.layers import convolve
from lgnn_jax.training import data

STILL = {"views": 1, "jitter": 0, "rotation": 0, "scale": 0}


def _smooth_filters(height, width, colours, count):
    """Light and dark patches, blurred noise driven into saturation: values are near -1 or 1."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    noise = rng.normal(size=(colours, count, height, width))
    spectrum = np.fft.rfft2(noise) / np.maximum(frequency, 1 / max(height, width)) ** 2
    smooth = np.fft.irfft2(spectrum, s=(height, width))
    filters = np.tanh(10 * smooth / smooth.std(axis=(2, 3), keepdims=True))
    return filters.transpose(2, 3, 0, 1).astype(np.float32)  # HWIO


def _product(filters):
    return lambda images: jnp.einsum("nyxc,yxck->nk", images, filters)


def _window(filters):
    """As a convolution whose window just fits into the image: activations `(n, 1, 1, k)`."""
    return lambda images: jax.lax.conv_general_dilated(
        images, filters, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("form", "shape"), [(_product, (15, 18, 1)), (_product, (16, 13, 3)), (_window, (16, 16, 1))]
)
def test_linear_neurons_against_their_optimum(form, shape):
    """Of all images in [0, 1] the best is 1 where the filter is positive, and 0 elsewhere.

    The image stands still: the best image for all shifts of a filter would be a blurred one.
    """
    filters = _smooth_filters(*shape, 4)
    options = {"image_shape": shape, "decorrelate": False, "steps": 200, **STILL}
    found = visualize(form(filters), range(4), **options)
    best, worst = (part(filters, 0).sum(axis=(0, 1, 2)) for part in (np.maximum, np.minimum))
    achieved = (found.activations - worst) / (best - worst)
    assert (achieved > 0.95).all()
    assert (achieved < 1).all()
    for k in range(4):
        image, weights = found.images[k].ravel(), filters[..., k].ravel()
        assert np.corrcoef(weights > 0, weights)[0, 1] > 0.98  # so much can be had
        assert np.corrcoef(image, weights)[0, 1] > 0.95


def test_what_is_reported():
    filters = _smooth_filters(10, 10, 1, 3)
    calls = []
    found = visualize(
        _product(filters),
        [2, 0, 1],
        image_shape=(10, 10, 1),
        steps=12,
        chunk=2,
        progress=lambda done, whole: calls.append((done, whole)),
        **STILL,
    )
    assert calls == [(done, 24) for done in range(1, 25)]
    assert found.channels.tolist() == [2, 0, 1]
    assert found.images.shape == (3, 10, 10, 1)
    assert found.images.dtype == found.activations.dtype == found.course.dtype == np.float32
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()
    # Nothing moves, so all activations can be had from the images in numpy.
    expected = np.einsum("nyxc,yxcn->n", found.images.astype(float), filters[..., [2, 0, 1]])
    np.testing.assert_allclose(found.activations, expected, rtol=1e-4)
    # The images start nearly grey.
    grey = filters.sum(axis=(0, 1, 2))[[2, 0, 1]] / 2
    np.testing.assert_allclose(found.course[0], grey, atol=0.1 * abs(filters).sum() / 3)
    assert found.course.shape == (12, 3)
    assert (np.diff(found.course, axis=0) > 0).all()
    assert (found.activations > found.course[-1]).all()


def _textures(images):
    """Three neurons with space around them and a nonlinearity before: odd and even sizes."""
    rng = np.random.default_rng(1)
    kernels = [rng.normal(size=(3, 3, c, k)) for c, k in ((images.shape[-1], 5), (5, 3))]
    x = images * 4 - 2
    for kernel in kernels:
        x = jnp.tanh(x)
        x = jax.lax.conv_general_dilated(
            x, jnp.float32(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return x


@pytest.mark.parametrize("shape", [(9, 12, 1), (8, 7, 3), (5, 5, 2)])
def test_same_seed_same_bits(shape):
    options = {"image_shape": shape, "steps": 8}
    first = visualize(_textures, range(3), seed=1, **options)
    again = visualize(_textures, range(3), seed=1, **options)
    other = visualize(_textures, range(3), seed=2, **options)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.course, again.course)
    assert (abs(first.images - other.images).max(axis=(1, 2, 3)) > 0.01).all()
    # Channels begin with images of their own.
    assert abs(first.images[0] - first.images[1]).max() > 0.01


def test_channels_do_not_depend_on_each_other_or_the_chunk():
    options = {"image_shape": (9, 8, 3), "steps": 16}
    whole = visualize(_textures, [0, 1, 2], **options)
    for channels, chunk in (([2, 0, 1], 2), ([1], 32), ([2, 2, 0, 1], 3)):
        found = visualize(_textures, channels, chunk=chunk, **options)
        np.testing.assert_allclose(found.images, whole.images[channels], atol=1e-3)
        np.testing.assert_allclose(found.activations, whole.activations[channels], rtol=1e-3)
        np.testing.assert_allclose(found.course, whole.course[:, channels], rtol=1e-3, atol=1e-3)


def test_one_program_for_all_chunks():
    def traces(channels):
        traced = []

        def apply(images):
            traced.append(images.shape)
            return images

        visualize(apply, channels, image_shape=(4, 4, 5), steps=3, views=3, chunk=2)
        return traced

    assert traces(range(5)) == traces(range(2))
    assert set(traces(range(5))) == {(6, 4, 4, 5), (2, 4, 4, 5)}  # all views; none, at the end


def test_views_are_means():
    """The objective is the mean over views, not their sum: the views of one grey are all grey."""
    found = visualize(lambda x: x, [0], image_shape=(6, 6, 1), steps=1, views=5)
    assert found.course[0, 0] == pytest.approx(0.5, abs=0.05)


@pytest.fixture(scope="module")
def digits_network():
    """A small network after 200 steps on the handwritten digits, at half their size."""
    digits = data.load("digits")
    train, test = (
        x.reshape(-1, 16, 2, 16, 2, 1).mean((2, 4)).astype(np.float32) / 255
        for x in (digits.train_images, digits.test_images)
    )
    rng = np.random.default_rng(0)
    shapes = {"first": (3, 3, 1, 16), "second": (5, 5, 16, 32), "head": (32, 10)}
    params = {
        name: jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])), jnp.float32)
        for name, shape in shapes.items()
    }

    def activations(params, images):
        x = ((images - train.mean()) / train.std()).transpose(1, 2, 0, 3)
        x = jax.nn.relu(convolve(x, params["first"], 2))
        return convolve(x, params["second"], 1).transpose(2, 0, 1, 3)

    def logits(params, images):
        return jax.nn.relu(activations(params, images)).mean(axis=(1, 2)) @ params["head"]

    tx = optax.adam(3e-3)

    @jax.jit
    def step(params, opt_state, images, labels):
        def loss(params):
            scores = logits(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for _ in range(200):
        rows = rng.integers(0, len(train), 64)
        params, opt_state = step(params, opt_state, train[rows], digits.train_labels[rows])
    correct = jax.jit(logits)(params, test).argmax(-1) == digits.test_labels
    assert correct.mean() > 0.8
    return lambda images: activations(params, images), test


def test_digits_excite_their_neurons_less(digits_network):
    apply, test = digits_network
    tested = mean_activations(apply, test)
    found = visualize(apply, range(32), image_shape=(16, 16, 1))
    assert (found.course[-1] > found.course[0]).all()
    # All 32 of them when this was written.
    assert exceeds_best(found, tested).fraction >= 0.9
    # A picture is of its own channel: hardly any other one's excites it more.
    answers = mean_activations(apply, found.images)
    np.testing.assert_allclose(np.diag(answers), found.activations, rtol=1e-3)
    assert (answers.argmax(axis=0) == np.arange(32)).mean() >= 0.8


def test_mean_activations_against_numpy():
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3)).astype(np.uint8)
    filters = _smooth_filters(6, 5, 3, 2)
    expected = np.einsum("nyxc,yxck->nk", images / 255, filters.astype(np.float64))
    for batch in (1, 3, 7, 100):
        found = mean_activations(_product(filters), images, batch=batch)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    found = mean_activations(lambda x: x, images.astype(np.float64) / 255)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_types_of_activations():
    found = visualize(lambda x: x.astype(jnp.bfloat16), [0], image_shape=(4, 4, 1), steps=20)
    assert found.activations.dtype == np.float32
    assert found.activations[0] > 0.6


def _visualization(channels, activations):
    empty = np.zeros((0,), np.float32)
    return Visualization(np.array(channels), empty, np.array(activations, np.float32), empty)


def test_exceeding_solved_by_hand():
    found = exceeds_best(
        _visualization([3, 0, 1], [5.0, 1.0, 2.0]),
        np.array([[0.5, 2.0, 9.0, 3.0], [-1.0, 1.5, 9.0, 4.0]]),
    )
    assert found.by_channel.tolist() == [True, True, False]  # to equal the best is not enough
    assert found.fraction == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, r"steps must be at least 1, got 0"),
        ({"views": 0}, r"views must be at least 1, got 0"),
        ({"chunk": -1}, r"chunk must be at least 1, got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive and finite, got 0.0"),
        ({"learning_rate": float("nan")}, r"learning_rate must be positive and finite, got nan"),
        ({"jitter": 4}, r"jitter must be in \[0, 1\], a share of the image's side, got 4"),
        ({"rotation": 91}, r"rotation must be in \[0, 90\] degrees, got 91"),
        ({"scale": 1.0}, r"scale must be in \[0, 1\), got 1.0"),
        ({"image_shape": (8, 8)}, r"image_shape must be \(height, width, colours\), .* \(8, 8\)"),
        ({"image_shape": (8, 0, 1)}, r"image_shape must be .* at least 1, got \(8, 0, 1\)"),
        ({"channels": []}, r"channels must be one or more whole numbers, got \[\]"),
        ({"channels": [0.5]}, r"channels must be one or more whole numbers, got \[0.5\]"),
        ({"channels": [1, 3, 7]}, r"channels: there is no channel 3, only 0 to 2"),
        ({"channels": [-1]}, r"channels: there is no channel -1, only 0 to 2"),
    ],
)
def test_arguments_out_of_range(changed, message):
    arguments = {"channels": [0], "image_shape": (8, 8, 3), **changed}
    with pytest.raises(ValueError, match=message):
        visualize(lambda images: images, **arguments)


@pytest.mark.parametrize(
    ("apply", "got"),
    [
        (lambda images: images.sum(axis=(1, 2, 3)), r"\(4,\)"),
        (lambda images: images.sum(axis=0), r"\(8, 8, 3\)"),
        (lambda images: (images, {"conv": images}), r"\(\(4, 8, 8, 3\), \{'conv': \(4, 8, 8, 3\)"),
    ],
)
def test_activations_of_the_wrong_shape(apply, got):
    message = rf"apply must return one array \(4, ..., channels\) for .* \(4, 8, 8, 3\), got {got}"
    with pytest.raises(ValueError, match=message):
        visualize(apply, [0, 1], image_shape=(8, 8, 3), views=2)
    with pytest.raises(ValueError, match=message):
        mean_activations(apply, np.zeros((4, 8, 8, 3)))


def test_activations_that_are_not_finite():
    def infinite(images):
        return images / jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)

    with pytest.raises(ValueError, match="activation of channel 2 is inf after 0 steps"):
        visualize(infinite, [0, 2, 1], image_shape=(4, 4, 3))

    def later(images):
        bright = images.mean(axis=(1, 2))
        return jnp.where(bright > 0.6, jnp.nan, bright)

    with pytest.raises(ValueError, match=r"channel 0 is nan after [1-9]\d* steps: either apply"):
        visualize(later, [0], image_shape=(4, 4, 1))


def test_comparison_with_nothing_to_compare():
    found = _visualization([0, 2], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"at least 3 channels, got shape \(5, 2\)"):
        exceeds_best(found, np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"n >= 1 .*, got shape \(0, 3\)"):
        exceeds_best(found, np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"activations must be finite, got NaN or infinity"):
        exceeds_best(found, np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match=r"images must be \(n, .* got shape \(8, 8, 3\)"):
        mean_activations(lambda images: images, np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        mean_activations(lambda images: images, np.zeros((1, 8, 8, 3)), batch=0)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_layer_of_equal_weights_is_computed_right(value):
    """XLA sums a product with such a constant to garbage, so weights may not be constants."""
    kernel = np.full((576, 64), value, np.float32)
    images = np.random.default_rng(0).random((100, 8, 8, 576), np.float32)
    found = mean_activations(lambda x: x @ kernel, images)
    expected = np.repeat(value * images.mean((1, 2)).sum(-1, keepdims=True), 64, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    made = visualize(lambda x: x @ kernel, [0, 63], image_shape=(8, 8, 576), steps=2, chunk=2)
    assert np.abs(made.activations).max() <= value * 576
