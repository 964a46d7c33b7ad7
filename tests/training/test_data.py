import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lgnn_jax.training import data
from lgnn_jax.training.data import DataError, Dataset


@pytest.fixture(scope="module")
def cifar_dir():
    folder = Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"))
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"no prepared copy of CIFAR-10 in {folder}; name another in TFDS_DATA_DIR")
    return folder


def test_digits():
    digits = data.load("digits")
    assert digits.train_images.shape == (1437, 32, 32, 1)
    assert digits.test_images.shape == (360, 32, 32, 1)
    assert digits.train_images.min() == 0
    assert digits.train_images.max() == 255
    assert set(np.bincount(digits.test_labels)) <= {35, 36, 37}
    assert digits.class_names == tuple("0123456789")
    assert digits.info == data.describe("digits")


def test_digits_keep_their_shape_when_enlarged():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    images = np.concatenate([digits.train_images, digits.test_images])[..., 0] / 255 * 16
    means = images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    originals = load_digits().images
    closest = [np.abs(originals - m).mean(axis=(1, 2)).min() for m in means[:50]]
    assert max(closest) < 1.5  # of 16 grey levels, on average over the pixels


def test_digits_split_is_fixed_and_has_no_image_twice():
    first, second = data.load("digits"), data.load("digits")
    np.testing.assert_array_equal(first.test_images, second.test_images)
    trained = {image.tobytes() for image in first.train_images}
    assert not any(image.tobytes() in trained for image in first.test_images)


def test_subset_is_the_same_in_every_run():
    whole, part, again = (data.load("digits", train_images=n) for n in (None, 100, 100))
    assert len(part.train_images) == 100
    np.testing.assert_array_equal(part.train_images, again.train_images)
    assert len(set(part.train_labels.tolist())) == 10
    np.testing.assert_array_equal(part.test_images, whole.test_images)
    with pytest.raises(DataError, match="1437 training images, not 1438"):
        data.load("digits", train_images=1438)


def test_order_is_a_permutation_by_seed_and_epoch():
    orders = [data.order(seed, epoch, 1000) for seed in range(2) for epoch in range(3)]
    for a in orders:
        assert a.dtype == np.int32
        np.testing.assert_array_equal(np.sort(a), np.arange(1000))
    assert len({a.tobytes() for a in orders}) == len(orders)
    np.testing.assert_array_equal(orders[4], data.order(1, 1, 1000))


def test_order_stays_the_same_from_version_to_version():
    assert data.order(0, 0, 10).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert data.order(3, 7, 10).tolist() == [3, 4, 2, 6, 1, 9, 7, 0, 8, 5]


def test_statistics_against_float64():
    images = np.random.default_rng(0).integers(0, 200, (50, 8, 9, 3)).astype(np.uint8)
    images[..., 2] = 7
    mean, deviation = data.statistics(images)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation[:2], images.std(axis=(0, 1, 2))[:2], rtol=1e-6)
    assert deviation[2] == 1
    standard = data.standardize(jnp.asarray(images), mean, deviation)
    np.testing.assert_allclose(standard[..., :2].mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standard[..., :2].std(axis=(0, 1, 2)), 1, atol=1e-5)


IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 12, 10, 3)), jnp.uint8)
POSITIONS = jnp.arange(64)


def _augmented(key, rows=slice(None), *, pad=4, flip=True):
    crops = data.draw_crops(jax.random.key(key), POSITIONS[rows], pad=pad, flip=flip)
    return data.augment(IMAGES[rows], crops, pad=pad)


@pytest.mark.parametrize("flip", [False, True])
def test_augmented_images_are_crops_of_the_reflected_ones(flip):
    out = _augmented(0, flip=flip)
    assert out.dtype == jnp.uint8
    seen = set()
    for image, crop in zip(np.asarray(IMAGES), np.asarray(out), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")
        matches = {
            (row, column, mirrored)
            for row in range(9)
            for column in range(9)
            for mirrored in (False, True)
            if (
                padded[row : row + 12, column : column + 10][:, :: -1 if mirrored else 1] == crop
            ).all()
        }
        assert len(matches) == 1
        seen |= matches
    rows, columns, mirrored = zip(*seen, strict=True)
    assert set(rows) == set(columns) == set(range(9))
    assert set(mirrored) == ({False, True} if flip else {False})


def test_no_augmentation_is_the_identity():
    out = _augmented(0, pad=0, flip=False)
    np.testing.assert_array_equal(out, IMAGES)


def test_augmentation_depends_on_key_and_position_alone():
    parts = [_augmented(0, rows) for rows in (slice(0, 16), slice(16, 64))]
    np.testing.assert_array_equal(np.concatenate(parts), _augmented(0))
    assert (_augmented(0) != _augmented(1)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.array([0, 1, 2])}, "train split: label 2 is out of range.*2 classes"),
        ({"test_labels": np.array([0, -1, 1])}, "test split: label -1 is out of range"),
        ({"test_labels": np.array([0])}, "3 images, but labels"),
        ({"train_images": np.zeros((3, 4, 4, 1))}, "must be uint8.*float64"),
        ({"train_images": np.zeros((0, 4, 4, 1), np.uint8)}, r"n >= 1.*\(0, 4, 4, 1\)"),
        ({"test_images": np.zeros((3, 4, 5, 1), np.uint8)}, r"\(4, 5, 1\) differ.*\(4, 4, 1\)"),
    ],
)
def test_data_that_does_not_fit(changes, message):
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.array([0, 1, 1])
    fields = {
        "train_images": images,
        "train_labels": labels,
        "test_images": images,
        "test_labels": labels,
    }
    with pytest.raises(DataError, match=message):
        Dataset("d", **(fields | changes), class_names=("a", "b"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar1O", "unknown data set 'cifar1O'; did you mean 'cifar10'"),
        ("svhn_cropped", "'svhn_cropped' is not prepared at .*tfds build svhn_cropped"),
        ("imagenette", "images of mixed size"),
        ("imdb_reviews", "not for image classification"),
    ],
)
def test_data_sets_that_cannot_be_had(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        data.load(name, tmp_path)
    with pytest.raises(DataError, match=message):
        data.describe(name, tmp_path)


def test_cifar_is_described_without_a_copy(tmp_path):
    info = data.describe("cifar100", tmp_path)
    assert info.image_shape == (32, 32, 3)
    assert len(info.class_names) == 100
    assert info.train_count == 50_000
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cifar 10", "../x", "cifar10:9.9.9", "huggingface:mnist", ""])
def test_names_that_are_no_names(tmp_path, name):
    with pytest.raises(DataError, match=r"unknown data set|cannot be read"):
        data.load(name, tmp_path)


@pytest.mark.cifar
def test_damaged_copies_are_one_clear_line(cifar_dir, tmp_path):
    def copy(to):
        for source in (cifar_dir / "cifar10").rglob("*"):
            if source.is_file():
                target = to / source.relative_to(cifar_dir)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
        return next((to / "cifar10").iterdir())

    folder = copy(tmp_path / "cut")
    shard = next(folder.glob("*test*"))
    shard.write_bytes(shard.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"'cifar10' cannot be read from .*cifar10") as error:
        data.load("cifar10", tmp_path / "cut", train_images=10)
    assert "\n" not in str(error.value)
    folder = copy(tmp_path / "json")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="'cifar10' cannot be read"):
        data.load("cifar10", tmp_path / "json", train_images=10)


@pytest.mark.cifar
def test_a_prepared_copy_is_read_without_tensorflow(cifar_dir):
    cifar = data.load("cifar10", cifar_dir, train_images=500)
    assert cifar.train_images.shape == (500, 32, 32, 3)
    on_cpu = jax.device_put(cifar.train_images, jax.devices("cpu")[0])
    assert on_cpu.unsafe_buffer_pointer() == cifar.train_images.ctypes.data  # shared, no copy
    assert cifar.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(cifar.test_labels).tolist() == [1000] * 10
    assert cifar.class_names[3] == "cat"
    assert 100 < cifar.test_images.mean() < 140
    assert data.describe("cifar10", cifar_dir).train_count == 50_000
