import json

import numpy as np
import pytest
from PIL import Image

from lgnn_jax import cli
from lgnn_jax.analysis.topography import neighbour_correlation
from lgnn_jax.training import trained


def test_from_runs_to_figures_and_numbers(runs, tiny_dataset, tmp_path, analysis):
    found = trained.load(runs, tiny_dataset)
    document, stages = analysis(found, tiny_dataset, tmp_path, classes=("a+c", "b"))
    assert json.loads((tmp_path / "analysis.json").read_text()) == document
    assert document["figures"] == [
        "first_filters", "order", "conv5_2_correlations", "conv5_2_distance",
        "conv5_2_classes_a+c_baseline", "conv5_2_classes_b_baseline", "conv5_2_settled_baseline",
        "conv5_2_classes_a+c_constant", "conv5_2_classes_b_constant",
    ]  # fmt: skip
    for name in document["figures"]:
        with Image.open(tmp_path / "figures" / f"{name}.png") as picture:
            assert picture.width > 400
            assert len(set(picture.convert("L").resize((64, 64)).get_flattened_data())) > 8
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()
    for t in found:
        layers = document["runs"][t.name]["layers"]
        assert list(layers) == [
            f"conv{i}" for i in ("1_1", "2_1", "3_1", "3_2", "4_1", "4_2", "5_1", "5_2")
        ]
        for layer, numbers in layers.items():
            kernel = t.params[layer]["kernel"]
            figure = neighbour_correlation(kernel, numbers["map"], shuffles=20)
            assert numbers["weights"]["neighbours"]["value"] == figure.value
            # Of two or four neurons the same map, turned: its sum may differ in the last digit.
            arranged = numbers["sorted_after_training"]["neighbours"]["value"]
            assert arranged >= figure.value - 1e-14
            assert numbers["weights"]["dead"] == []
    untrained = [document["runs"][t.name]["layers"]["conv5_2"]["untrained_weights"] for t in found]
    assert untrained[0] == untrained[1]  # runs of one seed
    assert "baseline: visualisations of conv5_2" in stages


def test_one_run_without_pictures_and_a_whole_layer(runs, tiny_dataset, tmp_path, analysis):
    found = trained.load(runs[1:], tiny_dataset)
    document, _ = analysis(found, tiny_dataset, tmp_path, visualize="none", layers=("conv2_1",))
    assert "conv2_1_classes_a+b+c" in document["figures"]
    assert "visualisations" not in document["runs"]["constant"]["layers"]["conv2_1"]
    document, _ = analysis(found, tiny_dataset, tmp_path, visualize="all", layers=("conv2_1",))
    assert "conv2_1_visualisations" in document["figures"]
    entry = document["runs"]["constant"]["layers"]["conv2_1"]
    assert entry["visualisations"]["neurons"] == list(range(8))


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "tiny.py").write_text(
        "from lgnn_jax.training.config import Config, Data, Model\n"
        "config = Config(name='tiny', epochs=1, batch_size=16, model=Model('vgg11', width=1 / 16),"
        " data=Data('digits', train_images=64))\n"
    )
    cli.main(["train", "--config", "tiny.py"])
    capsys.readouterr()
    cli.main(["analyze", "runs/tiny", "--steps", "2", "--classes", "3+8", "1"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    assert "constant, step 4: order of the weights on the maps" in said
    assert "6 figures, PNG and SVG, in runs/tiny/figures/" in said
    assert (tmp_path / "runs/tiny/figures/conv5_2_classes_3+8.png").exists()
    cli.main(["map", "runs/tiny", "--layers", "conv5_2", "conv1_1", "--samples", "100"])
    said = capsys.readouterr().out
    assert "32 neurons on map 8x4, settled on 50 samples, judged on 50 others." in said
    assert (tmp_path / "runs/tiny/map/conv5_2_classes.png").exists()
    with np.load(tmp_path / "runs/tiny/map/places.npz") as places:
        assert {layer: len(x) for layer, x in places.items()} == {"conv5_2": 32, "conv1_1": 4}
    for argv, message in (
        (["--layers", "conv9"], "lgnn: no layer 'conv9' with a map; did you mean 'conv"),
        (["--labels", "x.npy"], "lgnn: --labels is for files: the images of a run have labels of"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["map", "runs/tiny", *argv])
        assert capsys.readouterr().err.startswith(message)
    with pytest.raises(SystemExit):
        cli.main(["analyze", "runs/tiny", "--layers", "conv9"])
    assert capsys.readouterr().err.startswith("lgnn: no convolution 'conv9' with a map")
    with pytest.raises(SystemExit):
        cli.main(["analyze", "runs/nothing"])
    assert "lgnn: runs/nothing holds no run" in capsys.readouterr().err
