import dataclasses
import errno
import json
import tempfile

import numpy as np
import pytest
from matplotlib.figure import Figure

from lgnn_jax.atlas import analyze, bundle, measure
from lgnn_jax.atlas.draw import draw
from lgnn_jax.maps.grid import Grid, grid, ring
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.sphere import Sphere, sphere
from lgnn_jax.maps.table import LayerMap
from lgnn_jax.training import files, trained
from lgnn_jax.training.errors import RunError


def test_an_output_folder_that_is_a_file(runs, tiny_dataset, tmp_path, analysis):
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(RunError, match=r"cannot write to \S+figures: File exists"):
        analysis(trained.load(runs[:1], tiny_dataset), tiny_dataset, tmp_path, visualize="none")
    assert (tmp_path / "figures").read_text() == "mine"


@pytest.mark.parametrize("which", ["", "figures"])
def test_an_output_that_cannot_be_written_is_known_at_once(
    runs, tiny_dataset, tmp_path, monkeypatch, which, analysis
):
    refused = tmp_path / which
    (tmp_path / "figures").mkdir()
    make = tempfile.TemporaryFile

    def refuse(*, dir):
        if dir == refused:
            raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/tmp1234")
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(analyze, "measure", None)  # not called
    found = trained.load(runs[:1], tiny_dataset)
    with pytest.raises(RunError) as error:
        analysis(found, tiny_dataset, tmp_path)
    assert str(error.value) == f"cannot write to {refused}: Permission denied."
    monkeypatch.undo()
    monkeypatch.setattr(analyze, "measure", None)
    (tmp_path / "analysis.json").mkdir()
    with pytest.raises(RunError, match=r"cannot write to \S+/analysis.json: it is a folder"):
        analysis(found, tiny_dataset, tmp_path)
    assert not list((tmp_path / "figures").iterdir())


@pytest.fixture(scope="module")
def kept():
    """What has been measured for an earlier test."""
    return {}


@pytest.fixture
def measured(runs, tiny_dataset, kept):
    """Two runs on maps of several shapes, measured once for all tests."""
    if "measured" not in kept:
        kept["measured"] = _measure(runs, tiny_dataset)
    return kept["measured"]


def _measure(runs, dataset):
    shapes = {
        "conv1_1/kernel": sphere(4), "conv2_1/kernel": ring(8),
        "conv5_1/kernel": hexagonal(8, 4), "conv5_2/kernel": grid(8, 4, wrap=True),
    }  # fmt: skip
    maps = {path: LayerMap(map) for path, map in shapes.items()}
    found = [
        t._replace(plan=t.plan._replace(maps=t.plan.maps | maps))
        for t in trained.load(runs, dataset)
    ]
    request = measure.Request(layers=("conv5_1", "conv5_2"), classes=("a+c",), steps=2, shuffles=20)
    return measure.measure(found, dataset, request, progress=lambda *_: None)


def test_figures_of_an_earlier_analysis_are_replaced(measured, tmp_path):
    """Those that it wrote, and no others, whatever its analysis.json says."""
    figures = {name: Figure() for name in ("order", "conv5_2_distance")}
    bundle.write(tmp_path, measured, {**figures, "conv2_1_distance": Figure()})
    folder = tmp_path / "figures"
    assert (folder / "conv2_1_distance.svg").exists()
    (folder / "conv2_1_mine.png").write_text("mine")
    (tmp_path / "other.png").write_text("mine")
    path = tmp_path / "analysis.json"
    before = json.loads(path.read_text())
    before["figures"] += ["../other", "conv9_missing"]
    path.write_text(json.dumps(before))
    document = bundle.write(tmp_path, measured, figures)
    left = {file.name for file in folder.iterdir()}
    expected = {name + suffix for name in document["figures"] for suffix in (".png", ".svg")}
    assert left == expected | {"conv2_1_mine.png"}
    assert (tmp_path / "other.png").exists()
    for damaged in ("{", "[]", '{"figures": 3}', '{"figures": [3]}'):
        path.write_text(damaged)
        bundle.write(tmp_path, measured, figures)
        assert left == {file.name for file in folder.iterdir()}


def test_what_is_read_back_gives_the_same_figures(measured, tmp_path):
    """Down to the bytes of their files, without the runs and their images."""
    bundle.write(tmp_path / "one", measured, draw(measured))
    again = bundle.load(tmp_path / "one")
    assert again.maps == measured.maps
    assert again.numbers == json.loads(json.dumps(measured.numbers))
    assert again.arrays.keys() == measured.arrays.keys()
    for name, array in measured.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array)
    document = bundle.write(tmp_path / "two", again, draw(again))
    # Of each layer two, one for each run, and one for that without a method.
    assert len(document["figures"]) == 2 + 2 * (2 + 2 + 1)
    for file in (tmp_path / "one").rglob("*.*"):
        if file.suffix != ".npz":  # which is the same, as far as it is read
            other = tmp_path / "two" / file.relative_to(tmp_path / "one")
            assert file.read_bytes() == other.read_bytes(), file
    assert "8x4 torus" in (tmp_path / "two" / "analysis.json").read_text()


def test_what_cannot_be_read_back(measured, tmp_path):
    with pytest.raises(RunError, match=r"holds no analysis: \S+analysis.json is missing\."):
        bundle.load(tmp_path)
    bundle.write(tmp_path, measured, {})
    text, arrays = (tmp_path / "analysis.json").read_text(), tmp_path / "analysis.npz"
    (tmp_path / "analysis.json").write_text(text.replace('"shuffles": 20', '"shuffles": 21'))
    with pytest.raises(RunError, match="are not of the same analysis"):
        bundle.load(tmp_path)
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "analysis.json").write_text(damaged)
        with pytest.raises(RunError, match=r"the analysis in \S+ is damaged"):
            bundle.load(tmp_path)
    (tmp_path / "analysis.json").write_text(text)
    content = arrays.read_bytes()
    for damaged in (b"", b"mine", content[:-100]):
        arrays.write_bytes(damaged)
        with pytest.raises(RunError, match=r"the analysis in \S+ is damaged"):
            bundle.load(tmp_path)
    arrays.unlink()
    with pytest.raises(RunError, match=r"holds no analysis: \S+analysis.npz is missing\."):
        bundle.load(tmp_path)


def test_a_map_of_ones_own_shape_is_read_back_where_it_is_defined(measured, tmp_path, monkeypatch):
    class Mine(Sphere):
        """A shape that this package does not have."""

    mine = dataclasses.replace(measured, maps=measured.maps | {"conv1_1": Mine(4)})
    assert draw(mine).keys() == draw(measured).keys()
    bundle.write(tmp_path, mine, {})
    assert bundle.load(tmp_path).maps["conv1_1"] == Mine(4)
    monkeypatch.setattr(bundle, "_subclasses", lambda cls: [Grid])
    with pytest.raises(RunError, match=r"a map is of the shape \S+Mine, which is not defined here"):
        bundle.load(tmp_path)


@pytest.mark.parametrize("file", ["figures/order.svg", "analysis.npz", "analysis.json"])
def test_files_are_whole_or_as_they_were(measured, tmp_path, monkeypatch, file):
    """On a disk that is full by then."""
    figures = {"order": draw(measured)["order"]}
    bundle.write(tmp_path, measured, figures)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.suffix != ".tmp"}

    def full(path):
        if path.name == f"{(tmp_path / file).name}.tmp":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "sync", full)
    later = dataclasses.replace(measured, numbers={**measured.numbers, "date": "2000-01-01"})
    with pytest.raises(RunError) as error:
        bundle.write(tmp_path, later, figures)
    assert str(error.value) == f"cannot write to {tmp_path / file}: No space left on device."
    assert (tmp_path / file).read_bytes() == before[tmp_path / file]
