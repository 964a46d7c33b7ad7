import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from lgnn_jax.analysis.fourier_images import (
    COLOURS,
    initial_coefficients,
    margins,
    random_views,
    to_images,
    warp,
)

IDENTITY = np.float32([[1, 0, 0], [0, 1, 0]])


def _logits(count, size, colours, *, decorrelate):
    keys = jax.random.split(jax.random.key(0), count)
    coefficients = jax.vmap(lambda key: initial_coefficients(key, size, colours))(keys)
    images = np.asarray(to_images(coefficients, size, decorrelate=decorrelate), np.float64)
    return np.asarray(coefficients, np.float64), np.log(images / (1 - images))


@pytest.mark.parametrize("size", [(6, 8), (7, 8), (6, 9), (7, 5), (1, 1)])
def test_images_are_sums_of_waves(size):
    """Each wave by its definition, with the constants of Lucid, in float64."""
    coefficients, logits = _logits(2, size, 1, decorrelate=True)
    height, width = size
    y, x = np.mgrid[:height, :width]
    expected = np.zeros((height, width, 2))
    for n in range(2):
        for u in range(height):
            for v in range(width // 2 + 1):
                frequency = np.hypot(min(u, height - u) / height, v / width)
                scale = np.sqrt(height * width) / max(frequency, 1 / max(height, width))
                real, imaginary = scale * coefficients[n, :, 0, u, v]
                wave = np.exp(2j * np.pi * (u * y / height + v * x / width))
                # Waves right of the middle are the mirror images of those left of it.
                mirrored = 1 if v == 0 or 2 * v == width else 2
                wave = mirrored * ((real + 1j * imaginary) * wave).real
                expected[:, :, n] += wave / (height * width) / 4
    np.testing.assert_allclose(logits[..., 0], expected, atol=2e-6)


def test_amplitudes_fall_as_one_over_the_frequency():
    _, logits = _logits(64, (32, 48), 2, decorrelate=False)
    amplitude = np.sqrt((abs(np.fft.rfft2(logits, axes=(1, 0))) ** 2).mean(axis=(2, 3)))
    # rfft2 halves the last of its axes, here the rows. The first and last frequency of it are
    # sums over a wave and its mirror image.
    frequency = np.hypot(np.fft.rfftfreq(32)[:, None], np.fft.fftfreq(48)[None])[1:-1]
    slope = np.polyfit(np.log(frequency).ravel(), np.log(amplitude[1:-1]).ravel(), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)


def test_colours_have_the_covariance_of_photographs():
    root = np.array([[0.26, 0.09, 0.02], [0.27, 0, -0.05], [0.27, -0.09, 0.03]])
    root /= np.sqrt((root**2).sum(axis=0).max())
    np.testing.assert_allclose(COLOURS, root)
    _, logits = _logits(2000, (8, 8), 3, decorrelate=True)
    _, plain = _logits(2000, (8, 8), 3, decorrelate=False)
    covariance = np.cov(logits.reshape(-1, 3).T) / plain.var()
    np.testing.assert_allclose(covariance, root @ root.T, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(plain.reshape(-1, 3).T), np.eye(3), atol=0.02)
    np.testing.assert_allclose(logits, plain @ root.T, atol=2e-6)


def test_other_numbers_of_colours_are_not_mixed():
    for colours in (1, 2, 4):
        _, mixed = _logits(2, (4, 4), colours, decorrelate=True)
        _, plain = _logits(2, (4, 4), colours, decorrelate=False)
        np.testing.assert_array_equal(mixed, plain)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((9, 12, 2, 3), np.float32)


def test_identity(images):
    np.testing.assert_array_equal(warp(images, IDENTITY[None], (9, 12))[0], images)


def test_whole_pixels_are_a_crop(images):
    views = np.stack([IDENTITY, IDENTITY])
    views[:, :, 2] = [[1, -2], [-2, 1]]
    seen = warp(images, views, (5, 8))
    np.testing.assert_array_equal(seen[0], images[3:8, 0:8])
    np.testing.assert_array_equal(seen[1], images[0:5, 3:11])


def test_views_against_scipy(images):
    """An independent implementation, also of what lies beyond the edge."""
    views = random_views(jax.random.key(0), 3, jitter=2, rotation=30, scale=0.3)
    seen = warp(images, views, (7, 10))
    here = np.mgrid[:7, :10] - np.reshape([3, 4.5], (2, 1, 1))
    for v, view in enumerate(np.asarray(views, np.float64)):
        there = np.tensordot(view[:, :2], here, 1) + view[:, 2].reshape(2, 1, 1)
        there += np.reshape([4, 5.5], (2, 1, 1))
        for n, colour in np.ndindex(2, 3):
            expected = scipy.ndimage.map_coordinates(
                images[:, :, n, colour].astype(np.float64), there, order=1, mode="nearest"
            )
            np.testing.assert_allclose(seen[v, :, :, n, colour], expected, atol=1e-5)


def test_views_differ_and_keep_their_bounds():
    views = np.asarray(random_views(jax.random.key(1), 2000, jitter=2, rotation=10, scale=0.1))
    linear, shift = views[:, :, :2], views[:, :, 2]
    zoom = np.sqrt(np.linalg.det(linear))
    angle = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    for draws, low, high in ((zoom, 0.9, 1.1), (angle, -10, 10), (shift, -2, 2)):
        assert low - 1e-4 <= draws.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < draws.max() <= high + 1e-4
        assert np.unique(draws).size > 1900


@pytest.mark.parametrize("rotation", [0, 5, 60, 90])
@pytest.mark.parametrize("size", [(32, 32), (15, 40)])
def test_margins_hold_all_views_and_no_more(size, rotation):
    bounds = {"jitter": 1.5, "rotation": rotation, "scale": 0.1}
    half = (np.array(size) - 1) / 2
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]).T * half[:, None]
    # Corners reach farthest with the largest shift and zoom, at one of the angles.
    angle = np.radians(np.linspace(-rotation, rotation, 2001))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = 1.1 * abs(np.einsum("ija,jc->iac", turned, corners)).max(axis=(1, 2)) + 1.5
    np.testing.assert_array_equal(margins(size, **bounds), np.ceil(reach - half - 1e-5))


def test_no_views_need_no_margin():
    assert margins((31, 32), jitter=0, rotation=0, scale=0) == (0, 0)
    views = random_views(jax.random.key(0), 2, jitter=0, rotation=0, scale=0)
    np.testing.assert_array_equal(views, np.stack([IDENTITY, IDENTITY]))


def test_types_are_kept(strict_dtypes):
    coefficients = initial_coefficients(jax.random.key(0), (4, 5), 3)[None]
    seen = to_images(coefficients, (4, 5), decorrelate=True)
    seen = warp(seen, random_views(jax.random.key(0), 2, jitter=1, rotation=1, scale=0.1), (4, 5))
    assert seen.dtype == jnp.float32
