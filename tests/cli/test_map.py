"""`lgnn map` on files of others; on runs, see tests/atlas/test_analyze.py."""

import json

import commands
import numpy as np
import pytest

from lgnn_jax import cli


@pytest.fixture
def files(folder):
    """Neurons tuned to places on a ring, in no order; labels by the place that was shown."""
    rng = np.random.default_rng(0)
    shown = rng.uniform(0, 2 * np.pi, 200)
    tuned = rng.permutation(np.linspace(0, 2 * np.pi, 24, endpoint=False))
    conv, noise = np.cos(shown[:, None] - tuned), rng.normal(size=(200, 12))
    labels = (shown / (2 * np.pi) * 4).astype(int)
    names = np.array(["north", "east", "south", "west"])
    np.savez("net.npz", conv=conv, noise=noise, labels=labels, class_names=names)
    np.save("conv.npy", conv)
    np.save("few.npy", labels[:199])
    np.save("nan.npy", np.where(np.arange(24) == 3, np.nan, conv))
    np.save("wide.npy", conv.reshape(200, 2, 2, 6))
    return folder


def test_layers_of_a_file(files, capsys):
    cli.main(["map", "net.npz", "--map", "ring", "--classes", "south", "north"])
    said = capsys.readouterr().out
    lines = said.splitlines()
    conv, noise = lines.index("conv"), lines.index("noise")
    assert lines[conv + 1].startswith("Clear map")
    assert lines[noise + 1].startswith("No map")
    assert "There is no map to see in noise." in lines
    assert lines[-3:] == [
        "4 figures, PNG and SVG, in net_map/;",
        "the neuron at each place in net_map/places.npz;",
        "all numbers in net_map/map.json",
    ]
    document = json.loads((files / "net_map/map.json").read_text())
    assert document["shown"] == ["south", "north"]
    assert document["input"] == "net.npz"
    assert document["samples"] == 200
    assert {name: x["map"] for name, x in document["layers"].items()} == {
        "conv": "ring of 24", "noise": "ring of 12"
    }  # fmt: skip
    with np.load(files / "net_map/places.npz") as places, np.load("net.npz") as net:
        conv = net["conv"][:, places["conv"]]
    # Neurons that are tuned to places side by side lie so, but where the ring is torn.
    beside = [np.corrcoef(conv.T)[i, i - 1] for i in range(24)]
    assert sum(x > 0.9 for x in beside) >= 16


def test_a_layer_without_labels(files, capsys):
    cli.main(["map", "conv.npy", "--samples", "120", "--sweeps", "5", "--out", "there"])
    said = capsys.readouterr().out
    assert "Without labels there are no figures of classes; --labels brings them." in said
    assert "1 figure, PNG and SVG, in there/;" in said
    document = json.loads((files / "there/map.json").read_text())
    assert (document["samples"], document["sweeps"], document["figures"]) == (
        120, 5, ["conv_distance"]
    )  # fmt: skip
    assert document["layers"]["conv"]["map"] == [6, 4]
    assert document["layers"]["conv"]["held_out"] == 60


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing from lgnn map: FILE|RUN_DIR. See lgnn map --help."),
        (["absent.npz"], "there is no file absent.npz."),
        (["absent"], "absent is neither a .npy or .npz file nor a folder with a run."),
        (["."], ". holds no run: there is no config.json."),
        (["nan.npy"], "nan.npy: nan must be finite: neuron 3 has nan on sample 0."),
        (["wide.npy"], "wide must have shape (samples, neurons), got (200, 2, 2, 6): take the me"),
        (["conv.npy", "--labels", "few.npy"], "few.npy has 199 labels, and conv in conv.npy has 2"),
        (["net.npz", "--layers", "cov"], "net.npz has no layer 'cov'; did you mean 'conv'?"),
        (["net.npz", "--classes", "noth"], "no class 'noth'; did you mean 'north'?"),
        (["conv.npy", "--classes", "a"], "classes can be drawn where samples have labels, and th"),
        (["net.npz", "--map", "4x6"], "--map, for noise: map 4x6 has 24 places for 12 neurons."),
        (["net.npz", "--map", "tours"], "--map, for conv: no map 'tours'; did you mean 'torus'?"),
        (["net.npz", "--samples", "3"], "--samples must be at least 4, got 3."),
        (["net.npz", "--start", "umap"], "--start"),
        (["net.npz", "--out", "tiny.py"], "cannot write to tiny.py: "),
    ],
)
def test_refusals(files, capsys, argv, message):
    assert message in commands.fails(capsys, "map", *argv)
    assert not list(files.glob("*_map"))


def test_help_says_how_to_read_the_figures(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["map", "--help"])
    said = capsys.readouterr().out
    assert said.rstrip().endswith("map.json has all numbers.")
    for word in ("held out", "Red neurons", "LAYER_classes", "LAYER_distance", "places.npz"):
        assert word in said
