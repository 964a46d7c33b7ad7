"""What `lgnn map` reads, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from lgnn_jax.atlas.features import Features, kept_samples, read
from lgnn_jax.training.data import DataError

RNG = np.random.default_rng(0)
CONV, DENSE = RNG.normal(size=(10, 6)), RNG.normal(size=(10, 4)).astype(np.float32)
LABELS = np.array([3, 1, 3, 3, 1, 4, 4, 4, 1, 3])
NAMES = np.array(["ant", "bee", "cat", "dog", "elk"])


def test_an_array_is_a_layer_named_after_its_file(tmp_path):
    np.save(tmp_path / "conv5.npy", CONV)
    found = read(tmp_path / "conv5.npy")
    assert list(found.layers) == ["conv5"]
    np.testing.assert_array_equal(found.layers["conv5"], CONV)
    assert (found.labels, found.class_names, found.samples) == (None, (), 10)


def test_all_layers_of_a_file_with_labels_and_names(tmp_path):
    np.savez(
        tmp_path / "net.npz", conv=CONV, dense=DENSE, image=np.zeros((10, 8, 8, 3)),
        ids=np.arange(10), labels=LABELS, class_names=NAMES,
    )  # fmt: skip
    found = read(tmp_path / "net.npz")
    assert list(found.layers) == ["conv", "dense"]
    assert found.layers["dense"].dtype == np.float32
    # Classes without a sample are left out, the others keep their names.
    assert found.class_names == ("bee", "dog", "elk")
    assert [found.class_names[label] for label in found.labels] == NAMES[LABELS].tolist()
    assert found.left_out == "image (10, 8, 8, 3), ids (10,)"
    assert list(read(tmp_path / "net.npz", layers=["dense"]).layers) == ["dense"]


@pytest.mark.parametrize("kind", ["names", "numbers", "npz"])
def test_labels_of_another_file(tmp_path, kind):
    np.savez(tmp_path / "net.npz", conv=CONV, labels=np.zeros(10, int))
    arrays = {"labels": LABELS, "class_names": NAMES}
    labels = tmp_path / ("labels.npz" if kind == "npz" else "labels.npy")
    if kind == "npz":
        np.savez(labels, **arrays)
    else:
        np.save(labels, NAMES[LABELS] if kind == "names" else LABELS)
    found = read(tmp_path / "net.npz", labels=labels)
    assert found.class_names == (("1", "3", "4") if kind == "numbers" else ("bee", "dog", "elk"))
    assert found.labels.tolist() == [1, 0, 1, 1, 0, 2, 2, 2, 0, 1]


def test_some_samples_and_their_labels(tmp_path):
    np.savez(tmp_path / "net.npz", conv=CONV, dense=DENSE, labels=LABELS)
    found = read(tmp_path / "net.npz", samples=4, seed=1)
    kept = kept_samples(10, 4, 1)
    assert len(kept) == len(set(kept.tolist())) == 4
    assert kept.tolist() == sorted(kept)
    assert kept.tolist() != kept_samples(10, 4, 2).tolist()
    np.testing.assert_array_equal(found.layers["conv"], CONV[kept])
    np.testing.assert_array_equal(found.layers["dense"], DENSE[kept])
    assert [int(found.class_names[label]) for label in found.labels] == LABELS[kept].tolist()
    assert kept_samples(10, 10, 0).tolist() == kept_samples(10, None, 0).tolist() == [*range(10)]


def test_labels_need_no_names():
    found = Features({"a": CONV}).labelled(np.array([True, False] * 5))
    assert found.class_names == ("False", "True")


def _nan(values):
    values = values.copy()
    values[2, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"conv": CONV[0]}, {}, "net.npz: conv must have shape (samples, neurons), got (6,)."),
        (
            {"conv": np.zeros((10, 3, 3, 6))}, {},
            "net.npz: conv must have shape (samples, neurons), got (10, 3, 3, 6): take the mean "
            "over pixels or tokens first.",
        ),
        (
            {"conv": np.zeros((10, 3, 3)), "ids": LABELS}, {},
            "net.npz holds no layer, an array (samples, neurons): it has conv (10, 3, 3), ids "
            "(10,).",
        ),
        ({}, {}, "net.npz holds no layer, an array (samples, neurons): it has no array."),
        ({"conv": CONV, "x": CONV[0]}, {"layers": ["x"]}, "net.npz: x must have shape (samples"),
        ({"conv": CONV[:, :1]}, {}, "conv must have two samples and two neurons at least, got (10"),
        ({"conv": CONV * 1j}, {}, "net.npz: conv must hold real numbers, got complex128."),
        (
            {"conv": CONV.astype(jnp.bfloat16)}, {},
            "conv must hold real numbers, got |V2: .npy files cannot store bfloat16, save float32.",
        ),
        ({"conv": CONV}, {"layers": ["cov"]}, "net.npz has no layer 'cov'; did you mean 'conv'?"),
        ({"conv": CONV, "labels": LABELS}, {"layers": ["labels"]}, "has no layer 'labels'. There"),
        (
            {"conv": CONV, "labels": LABELS[:9]}, {},
            "net.npz has 9 labels, and conv in net.npz has 10 samples: there must be a label for",
        ),
        (
            {"conv": CONV, "dense": DENSE[:9]}, {},
            "net.npz: dense has 9 samples and conv has 10: layers must respond to the same "
            "samples. --layers chooses some.",
        ),
        ({"conv": _nan(CONV)}, {}, "conv must be finite: neuron 1 has nan on sample 2."),
        (
            {"conv": CONV, "labels": LABELS / 2}, {},
            "labels must be whole numbers or text (samples,), got float64 (10,).",
        ),
        ({"conv": CONV, "labels": LABELS[:, None]}, {}, "text (samples,), got int64 (10, 1)."),
        (
            {"conv": CONV, "labels": LABELS, "class_names": NAMES[:4]}, {},
            "net.npz: label 4 has no name: class_names has 4, for labels from 0.",
        ),
        ({"conv": CONV, "labels": LABELS, "class_names": LABELS}, {}, "class_names must be text"),
        (
            {"conv": CONV, "labels": LABELS, "class_names": NAMES[[0, 1, 2, 3, 1]]}, {},
            "net.npz: class_names must differ, and 'bee' is there twice.",
        ),
        (
            {"conv": CONV, "labels": NAMES[LABELS], "class_names": NAMES}, {},
            "labels are names already",
        ),
        (
            {"conv": CONV, "labels": LABELS, "class_names": NAMES.astype(object)}, {},
            "net.npz: class_names holds Python objects, which are not read, as they could run code",
        ),
    ],
)  # fmt: skip
def test_files_that_hold_something_else(tmp_path, monkeypatch, arrays, options, message):
    monkeypatch.chdir(tmp_path)
    np.savez("net.npz", **arrays)
    with pytest.raises(DataError, match=r"^.*$") as error:
        read(tmp_path / "net.npz", **options)
    assert message in str(error.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npz", None, "there is no file absent.npz."),
        ("net.npz", b"", "net.npz cannot be read: it is damaged, or no .npz file."),
        ("net.npy", b"\x93NUMPY\x01\x00", "net.npy cannot be read: it is damaged, or no .npy file"),
        ("net.npz", b"PK\x03\x04 and then nothing", "net.npz cannot be read: it is damaged"),
        ("net.pth", b"PK", "net.pth is neither a .npy or .npz file nor a folder with a run."),
        ("net.npy", "objects", "net.npy holds Python objects, which are not read"),
        ("net.npz", "cut", "net.npz: conv cannot be read: it is damaged"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "objects":
        np.save(path, np.array([{}, []], object))
    elif content == "cut":
        np.savez(path, conv=CONV)
        content = bytearray(path.read_bytes())
        content[200:220] = bytes(20)
        path.write_bytes(content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"^.*$") as error:
        read(path)
    assert message in str(error.value).replace(f"{tmp_path}/", "")


def test_a_folder_of_labels(tmp_path):
    np.save(tmp_path / "conv.npy", CONV)
    with pytest.raises(DataError, match=r"--labels must be a \.npy or \.npz file, got .*"):
        read(tmp_path / "conv.npy", labels=tmp_path)


def test_a_file_of_labels_without_labels(tmp_path):
    np.save(tmp_path / "conv.npy", CONV)
    np.savez(tmp_path / "labels.npz", targets=LABELS)
    with pytest.raises(DataError, match=r"labels\.npz has no array 'labels': it has targets \(10,"):
        read(tmp_path / "conv.npy", labels=tmp_path / "labels.npz")
