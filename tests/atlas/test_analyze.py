import dataclasses
import errno
import io
import json
import re
import shutil
import tempfile

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lgnn_jax import cli
from lgnn_jax.analysis.activations import class_means, shared_regions
from lgnn_jax.analysis.arrange import arrange
from lgnn_jax.analysis.feature_vis import visualize
from lgnn_jax.analysis.filters import filter_correlations, filter_features, normalized_filters
from lgnn_jax.analysis.topography import neighbour_correlation, topography
from lgnn_jax.atlas import analyze, class_sets, figures
from lgnn_jax.cli import analysis_table, layer_tables
from lgnn_jax.training import trained
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(run_dirs, tiny_config, tiny_dataset):
    """A run without the filter and one with it, trained once for all tests."""
    folders = []
    for variant in ("baseline", "constant"):
        folder = run_dirs / variant
        if not folder.exists():
            config = dataclasses.replace(tiny_config, variant=variant, epochs=1)
            with Log() as log:
                run(config, tiny_dataset, folder, log)
        folders.append(folder)
    return folders


def _analyze(runs, dataset, out, **request):
    stages = []
    request = analyze.Request(**{"steps": 2, "shuffles": 20, **request})
    document = analyze.analyze(
        runs, dataset, out, request, progress=lambda stage, done, total: stages.append(stage)
    )
    return document, stages


def test_from_runs_to_figures_and_numbers(runs, tiny_dataset, tmp_path):
    found = trained.load(runs, tiny_dataset)
    document, stages = _analyze(found, tiny_dataset, tmp_path, classes=("a+c", "b"))
    assert json.loads((tmp_path / "analysis.json").read_text()) == document
    assert document["figures"] == [
        "first_layer", "order", "conv5_2_correlations", "conv5_2_distance",
        "conv5_2_classes_a+c_baseline", "conv5_2_classes_b_baseline",
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
            kernel = t.variables["params"][layer]["kernel"]
            figure = neighbour_correlation(kernel, numbers["map"], shuffles=20)
            assert numbers["weights"]["neighbours"]["value"] == figure.value
            # Of two or four neurons the same map, turned: its sum may differ in the last digit.
            arranged = numbers["sorted_after_training"]["neighbours"]["value"]
            assert arranged >= figure.value - 1e-14
            assert numbers["weights"]["dead"] == []
    untrained = [document["runs"][t.name]["layers"]["conv5_2"]["untrained_weights"] for t in found]
    assert untrained[0] == untrained[1]  # runs of one seed
    assert "baseline: visualisations of conv5_2" in stages


def test_numbers_are_those_of_the_layers_own_arrays(runs, tiny_dataset, tmp_path):
    """Against direct calls, each of which has tests of its own."""
    found = trained.load(runs, tiny_dataset)
    document, _ = _analyze(found, tiny_dataset, tmp_path, classes=("a+c",))
    for t in found:
        layers = document["runs"][t.name]["layers"]
        for layer, entry in layers.items():
            features = filter_features(t.variables["params"][layer]["kernel"])
            order = arrange(filter_correlations(features, neuron_axis=0), entry["map"])
            means = t.activations(tiny_dataset.test_images, [layer])[layer]
            for name, expected in (
                ("weights", features),
                ("untrained_weights", filter_features(t.initial[layer]["kernel"])),
                ("activations", means.T),
                ("sorted_after_training", features[order]),
            ):
                numbers = topography(expected, entry["map"], shuffles=20)
                for figure in ("neighbours", "morans_i", "smoothness", "trustworthiness"):
                    value = getattr(numbers, figure)
                    wanted = [value.value, value.z or 0, value.p]
                    actual = [entry[name][figure][field] or 0 for field in ("value", "z", "p")]
                    assert actual == pytest.approx(wanted, rel=1e-5, abs=1e-6), (layer, name)
                assert entry[name]["dead"] == numbers.dead.tolist()
        last = layers["conv5_2"]
        by_class = class_means(means, tiny_dataset.test_labels, 5)
        shared = shared_regions(by_class, (8, 4), [0, 2])
        assert [region["neurons"] for region in last["classes"]["a+c"]["regions"]] == [
            region.neurons.tolist() for region in shared.regions
        ]
        made = last["visualisations"]
        again = visualize(
            lambda images, t=t: t.apply(images)["conv5_2"],
            made["neurons"],
            image_shape=(32, 32, 3),
            steps=2,
        )
        np.testing.assert_allclose(made["activations"], again.activations, rtol=1e-4, atol=1e-5)
        exceeding = again.activations > means[:, made["neurons"]].max(axis=0)
        assert made["exceed_best_of_images"] == pytest.approx(exceeding.mean(), abs=0.04)


def test_figures_show_the_runs_own_arrays(runs, tiny_dataset, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update({path.name: figure}))
    found = trained.load(runs[::-1], tiny_dataset)  # the baseline second
    document, _ = _analyze(found, tiny_dataset, tmp_path, classes=("b",))

    layers = {t.name: document["runs"][t.name]["layers"] for t in found}
    lines = {
        line.get_label().replace("\n", " "): line.get_ydata()
        for line in drawn["order"].axes[0].lines
    }
    for label, which, name in (
        ("constant", "constant", "weights"),
        ("baseline", "baseline", "weights"),
        ("baseline, sorted after training", "baseline", "sorted_after_training"),
        ("untrained", "baseline", "untrained_weights"),
    ):
        wanted = [entry[name]["neighbours"]["value"] for entry in layers[which].values()]
        np.testing.assert_array_equal(lines[label], wanted)

    shown = {"before training": found[0].initial}  # of one seed, both runs began alike
    shown |= {t.name: t.variables["params"] for t in found}
    for (name, params), ax in zip(shown.items(), drawn["first_layer"].axes, strict=True):
        assert ax.get_title() == name
        pixels = ax.get_images()[0].get_array()  # tiles of 24 pixels with one around
        kernel = params["conv1_1"]["kernel"]
        for j, picture in enumerate(normalized_filters(kernel)):
            row, column = divmod(j, 2)
            tile = pixels[26 * row + 1 : 26 * row + 25, 26 * column + 1 : 26 * column + 25]
            np.testing.assert_allclose(tile[4::8, 4::8], picture, rtol=1e-6)

    for t, row in zip(found, (0, 1), strict=True):
        made = layers[t.name]["conv5_2"]["visualisations"]
        images = visualize(
            lambda images, t=t: t.apply(images)["conv5_2"],
            made["neurons"],
            image_shape=(32, 32, 3),
            steps=2,
        ).images
        axes = [ax for ax in drawn["conv5_2_correlations"].axes if ax.get_images()]
        per_row = len(axes) // 2
        mosaic = axes[per_row * row + per_row - 1].get_images()[0]
        place = made["neurons"].index(0)  # the first neuron is at the top left
        np.testing.assert_allclose(mosaic.get_array()[1:33, 1:33], images[place], atol=1e-4)
        assert mosaic.get_extent()[0] == -0.5
        assert mosaic.get_extent()[3] == -0.5
        means = t.activations(tiny_dataset.test_images, ["conv5_2"])["conv5_2"]
        by_class = class_means(means, tiny_dataset.test_labels, 5)
        heat_map = drawn[f"conv5_2_classes_b_{t.name}"].axes[0].get_images()[0].get_array()
        np.testing.assert_allclose(heat_map, by_class[1].reshape(8, 4), atol=1e-6)

    curve = topography(
        filter_features(found[0].variables["params"]["conv5_2"]["kernel"]), (8, 4), shuffles=20
    ).by_distance
    band = drawn["conv5_2_distance"].axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(
        (curve.mean + 2 * curve.deviation)[curve.pairs >= 32].max()
    )


def test_activations_are_those_of_the_network_before_the_relu(runs, tiny_dataset):
    """Against the logits: the head on the ReLU of the last layer's activations, a pixel each."""
    (t,) = trained.load(runs[1:], tiny_dataset)
    images = tiny_dataset.test_images
    means = t.activations(images, ["conv1_1", "conv5_2"])
    assert means["conv1_1"].shape == (len(images), 4)
    x = (images - t.mean) / t.deviation
    logits, named = t.plan.model.apply(t.variables, x.astype(np.float32), activations=True)
    np.testing.assert_allclose(
        means["conv1_1"], np.mean(named["conv1_1"].pre, axis=(1, 2)), rtol=1e-4, atol=1e-5
    )
    head = jax.tree.map(np.asarray, t.variables["params"]["head"])
    last = np.asarray(named["conv5_2"].pre)
    pooled = np.maximum(last.reshape(len(images), 1, 2, 1, 2, -1).max((2, 4)), 0)[:, 0, 0]
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], logits, atol=1e-4)
    np.testing.assert_allclose(means["conv5_2"], last.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_one_run_without_pictures_and_a_whole_layer(runs, tiny_dataset, tmp_path):
    found = trained.load(runs[:1], tiny_dataset)
    document, _ = _analyze(found, tiny_dataset, tmp_path, visualize="none", layers=("conv2_1",))
    assert "conv2_1_classes_a+b+c" in document["figures"]
    assert "visualisations" not in document["runs"]["baseline"]["layers"]["conv2_1"]
    document, _ = _analyze(found, tiny_dataset, tmp_path, visualize="all", layers=("conv2_1",))
    assert "conv2_1_visualisations" in document["figures"]
    entry = document["runs"]["baseline"]["layers"]["conv2_1"]
    assert entry["visualisations"]["neurons"] == list(range(8))


def test_dead_filters_are_counted_and_nothing_is_nan(runs, tiny_dataset, tmp_path):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.variables["params"])
    params["conv5_2"]["kernel"][..., 3] = 0
    params["bn5_2"]["scale"][3] = 0
    params["conv1_1"]["kernel"][..., :] = 0
    dead = t._replace(variables={**t.variables, "params": params})
    document, _ = _analyze([dead], tiny_dataset, tmp_path)
    layers = document["runs"]["constant"]["layers"]
    assert layers["conv5_2"]["weights"]["dead"] == [3]
    assert 3 in layers["conv5_2"]["activations"]["dead"]
    assert layers["conv1_1"]["weights"]["dead"] == [0, 1, 2, 3]
    assert layers["conv1_1"]["weights"]["neighbours"] == {
        "value": 0, "shuffled": 0, "shuffled_deviation": 0, "z": None, "p": 1
    }  # fmt: skip
    text = (tmp_path / "analysis.json").read_text()
    assert not re.search(r"NaN|Infinity", text)
    said = _printed(document)
    (row,) = [line for line in said.splitlines() if line.startswith("conv1_1 ")]
    assert row.split()[2:7] == ["\u2013"] * 5  # neighbours, p, sorted, Moran, trust
    assert "conv5_2: 1 of 32 filters dead (weights all equal)" in said
    assert "conv1_1: 4 of 4 filters dead" in said


def _printed(document, width=80):
    console = Console(file=io.StringIO(), width=width)
    analysis_table.analysis(console, document)
    return console.file.getvalue()


def test_tables_fit_80_columns():
    """Whatever the numbers, for the longest names of layers; 0 has no sign."""
    figure = {"value": -0.0004, "shuffled": -0.00001, "shuffled_deviation": 0.1, "z": 0, "p": 0.005}
    weights = dict.fromkeys(("neighbours", "morans_i", "trustworthiness"), figure)
    weights |= {"effective_dimensionality": 99.96, "dead": []}
    layers = {
        layer: {
            "map": [32, 20],
            "weights": weights,
            "untrained_weights": {"effective_dimensionality": 639.6},
            "sorted_after_training": weights,
        }
        for layer in ("stem", "group3_block4/conv2", "group3_block0/shortcut")
    }
    layers["stem"] = layers["stem"] | {
        "weights": weights | {"neighbours": figure | {"value": -0.001, "shuffled": -0.123}}
    }
    said = _printed({"runs": {"a": {"step": 1, "layers": layers}}}).splitlines()
    assert max(map(len, said)) <= 80
    (row,) = [line for line in said if line.startswith("stem")]
    assert row.split() == [
        "stem", "32x20", "-0.001", "(-0.123)", "0.005", "0.000", "0.000", "0.000", "100", "(640)"
    ]  # fmt: skip
    assert "-0.000" not in "".join(said)
    assert "conv2" in " ".join(said)
    wide = _printed({"runs": {"a": {"step": 1, "layers": layers}}}, width=100)
    assert "group3_block0/shortcut  32x20" in wide


def test_the_table_of_a_run_with_dead_filters(runs, tiny_dataset):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.variables["params"])
    params["conv4_1"]["kernel"][:] = 0.1
    console = Console(file=io.StringIO(), width=80)
    layer_tables.topography(console, t.plan, params)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["conv4_1", "8x4", "\u2013", "\u2013"] in rows
    assert sum("\u2013" in row for row in rows) == 1


def test_parameters_that_are_not_finite(runs, tiny_dataset):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.variables["params"])
    params["bn3_1"]["bias"][0] = np.nan
    with pytest.raises(RunError, match="bn3_1/bias has nan among its values: all parameters must"):
        layer_tables.topography(Console(quiet=True), t.plan, params)


def test_runs_of_several_seeds_have_each_their_own_beginning(runs, tiny_dataset, tmp_path):
    first, second = trained.load(runs, tiny_dataset)
    other = second._replace(initial=jax.tree.map(lambda x: x[..., ::-1], second.initial))
    with pytest.MonkeyPatch.context() as patch:
        drawn, saved = [], {}
        patch.setattr(figures, "order_by_layer", lambda runs, controls: drawn.append(controls))
        patch.setattr(figures, "save", lambda figure, path: saved.update({path.name: figure}))
        titles = []
        for found in ([first, second], [first, other]):
            _analyze(found, tiny_dataset, tmp_path, visualize="none")
            titles.append([ax.get_title() for ax in saved["first_layer"].axes])
    assert titles == [["before training", "baseline", "constant"], ["baseline", "constant"]]
    assert list(drawn[0]) == ["baseline, sorted after training", "untrained"]
    assert list(drawn[1])[1:] == ["untrained: baseline", "untrained: constant"]


def test_activations_that_are_not_finite(runs, tiny_dataset, tmp_path):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.variables["params"])
    params["bn3_1"]["bias"][0] = np.inf
    broken = t._replace(variables={**t.variables, "params": params})
    with pytest.raises(RunError, match="the activations of conv3_1 in constant are not finite"):
        _analyze([broken], tiny_dataset, tmp_path)


def test_a_run_named_twice(runs, tiny_dataset):
    again = runs[0].parent / "." / "constant" / ".." / "baseline"
    with pytest.raises(RunError, match=r"the run \S+/constant/\.\./baseline is named twice\."):
        trained.load([*runs, again], tiny_dataset)


def test_initial_weights_that_are_not_those_of_the_run(runs, tiny_dataset, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"init_sha256": "0" * 64}))
    with pytest.raises(RunError, match="began with other weights than its seed gives here"):
        trained.load([folder], tiny_dataset)


def test_names_of_files():
    """Each once, short, and without what a file system may not take."""
    names = ["a/b", "a_b", "x" * 300, "x" * 301, "c++"]
    found = analyze._file_names(names)
    assert found[0] == "a_b"
    assert len(set(found)) == 5
    assert max(map(len, found)) < 90
    assert found[-1] == "c++"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"layers": ("conv5_3",)},
            r"no convolution 'conv5_3' with a map; did you mean 'conv5_\d'\? Those with one are "
            r"conv1_1, .*, conv5_2\.",
        ),
        ({"layers": ("head",)}, r"no convolution 'head' with a map\. Those with one are conv1_1,"),
        ({"classes": ("a+z",)}, "random has no class or set of classes 'z'"),
        ({"classes": ("a+",)}, r"the name of a class is missing in 'a\+'\."),
        ({"classes": ("a+b+c+d+e",)}, "has all 5 classes"),
    ],
)
def test_what_does_not_exist(runs, tiny_dataset, tmp_path, request_, message):
    with pytest.raises(RunError, match=message):
        _analyze(trained.load(runs[:1], tiny_dataset), tiny_dataset, tmp_path, **request_)
    assert not list(tmp_path.iterdir())


def test_folders_that_hold_no_run(runs, tiny_dataset, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        trained.load([tmp_path], tiny_dataset)
    (tmp_path / "config.json").write_text((runs[0] / "config.json").read_text())
    with pytest.raises(RunError, match="holds no checkpoint"):
        trained.load([tmp_path], tiny_dataset)


def test_runs_of_different_networks(runs, tiny_dataset, tmp_path):
    config = json.loads((runs[0] / "config.json").read_text())
    config["model"]["width"] = 0.5
    config["data"]["pad"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError) as error:
        trained.load([runs[0], tmp_path], tiny_dataset)
    assert str(error.value) == (
        f"{runs[0]} and {tmp_path} cannot be compared: model.width is 0.0625 in one and 0.5 in the "
        "other; data.pad is 4 in one and 2 in the other."
    )


def test_layers_without_a_map_are_left_out(runs, tiny_dataset):
    (t,) = trained.load(runs[:1], tiny_dataset)
    maps = t.plan.maps | {"conv1_1/kernel": None, "conv2_1/kernel": (1, 1)}
    assert next(iter(t._replace(plan=t.plan._replace(maps=maps)).maps)) == "conv3_1"


def test_maps_that_differ_and_maps_that_one_run_lacks(runs, tiny_dataset, tmp_path):
    first, second = trained.load(runs, tiny_dataset)

    def with_maps(t, **maps):
        return t._replace(plan=t.plan._replace(maps=t.plan.maps | maps))

    other = with_maps(second, **{"conv2_1/kernel": (8, 1)})
    with pytest.raises(RunError, match=r"conv2_1 is on a map of \(4, 2\) in one and of \(8, 1\)"):
        _analyze([first, other], tiny_dataset, tmp_path, visualize="none")
    lacking = with_maps(second, **{"conv2_1/kernel": None})
    document, _ = _analyze([lacking, first], tiny_dataset, tmp_path, visualize="none")
    assert list(document["runs"]["constant"]["layers"])[1] == "conv2_1"
    bare = with_maps(first, **dict.fromkeys(first.plan.maps))
    with pytest.raises(RunError, match="baseline has no layer with a map"):
        _analyze([bare], tiny_dataset, tmp_path)


def test_an_output_folder_that_is_a_file(runs, tiny_dataset, tmp_path):
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(RunError, match=r"cannot write to \S+figures: File exists"):
        _analyze(trained.load(runs[:1], tiny_dataset), tiny_dataset, tmp_path, visualize="none")
    assert (tmp_path / "figures").read_text() == "mine"


@pytest.mark.parametrize("which", ["", "figures"])
def test_an_output_that_cannot_be_written_is_known_at_once(
    runs, tiny_dataset, tmp_path, monkeypatch, which
):
    refused = tmp_path / which
    (tmp_path / "figures").mkdir()
    make = tempfile.TemporaryFile

    def refuse(*, dir):
        if dir == refused:
            raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/tmp1234")
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(analyze, "_measure", None)  # not called
    found = trained.load(runs[:1], tiny_dataset)
    with pytest.raises(RunError) as error:
        _analyze(found, tiny_dataset, tmp_path)
    assert str(error.value) == f"cannot write to {refused}: Permission denied."
    monkeypatch.undo()
    monkeypatch.setattr(analyze, "_measure", None)
    (tmp_path / "analysis.json").mkdir()
    with pytest.raises(RunError, match=r"cannot write to \S+/analysis.json: it is a folder"):
        _analyze(found, tiny_dataset, tmp_path)
    assert not list((tmp_path / "figures").iterdir())


def test_figures_of_an_earlier_analysis_are_replaced(runs, tiny_dataset, tmp_path):
    """Those that it wrote, and no others, whatever its analysis.json says."""
    found = trained.load(runs[:1], tiny_dataset)
    request = {"visualize": "none", "classes": ("b",)}
    _analyze(found, tiny_dataset, tmp_path, layers=("conv2_1", "conv5_2"), **request)
    folder = tmp_path / "figures"
    assert (folder / "conv2_1_distance.svg").exists()
    (folder / "conv2_1_mine.png").write_text("mine")
    (tmp_path / "other.png").write_text("mine")
    path = tmp_path / "analysis.json"
    before = json.loads(path.read_text())
    before["figures"] += ["../other", "conv9_missing"]
    path.write_text(json.dumps(before))
    document, _ = _analyze(found, tiny_dataset, tmp_path, layers=("conv5_2",), **request)
    left = {file.name for file in folder.iterdir()}
    expected = {name + suffix for name in document["figures"] for suffix in (".png", ".svg")}
    assert left == expected | {"conv2_1_mine.png"}
    assert (tmp_path / "other.png").exists()
    for damaged in ("{", "[]", '{"figures": 3}', '{"figures": [3]}'):
        path.write_text(damaged)
        _analyze(found, tiny_dataset, tmp_path, layers=("conv5_2",), **request)
        assert left == {file.name for file in folder.iterdir()}


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
    with pytest.raises(SystemExit):
        cli.main(["analyze", "runs/tiny", "--layers", "conv9"])
    assert capsys.readouterr().err.startswith("lgnn: no convolution 'conv9' with a map")
    with pytest.raises(SystemExit):
        cli.main(["analyze", "runs/nothing"])
    assert "lgnn: runs/nothing holds no run" in capsys.readouterr().err


# The labels of CIFAR-100 in their order, and of CIFAR-10, as the archives' own files list them.
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = _CIFAR100.split()
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR10 = _CIFAR10.split()


def test_superclasses_are_those_of_cifar_100():
    """Every class once, five to each of the 20 superclasses."""
    sets = class_sets.NAMED["cifar100"]
    assert len(sets) == 20
    assert {len(names) for names in sets.values()} == {5}
    assert sorted(name for names in sets.values() for name in names) == CIFAR100
    assert sorted(sum(class_sets.NAMED["cifar10"].values(), ())) == CIFAR10
    assert class_sets.members("trees", "cifar100", CIFAR100) == (47, 52, 56, 59, 96)


def test_sets_join_as_classes_do():
    joined = class_sets.members("vehicles+cat+ship", "cifar10", CIFAR10)
    assert [CIFAR10[label] for label in joined] == [
        "airplane",
        "automobile",
        "ship",
        "truck",
        "cat",
    ]
    with pytest.raises(ValueError, match=r"'vehicle'; did you mean 'vehicles'\? Join them by"):
        class_sets.members("vehicle+cat", "cifar10", CIFAR10)
    with pytest.raises(ValueError, match=r"'zebra'\. Join them by '\+', as in 'airplane\+auto"):
        class_sets.members("zebra", "cifar10", CIFAR10)
    for text in ("cat+", "+cat", "cat++dog", ""):
        with pytest.raises(ValueError, match="the name of a class is missing in"):
            class_sets.members(text, "cifar10", CIFAR10)


def test_usual_sets():
    assert class_sets.usual("cifar100", ["x"] * 100) == ("trees",)
    assert class_sets.usual("other", ["a", "b", "c", "d"]) == ("a+b+c",)
    assert class_sets.usual("other", ["a", "b", "c"]) == ("a+b",)
    assert class_sets.usual("other", ["a", "b"]) == ()
    assert class_sets.usual("other", ["c++", "d", "e"]) == ("d+e",)
    assert class_sets.members("c++", "other", ["c++", "d", "e"]) == (0,)
