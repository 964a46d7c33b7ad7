import errno
import json
import tempfile

import pytest

from lgnn_jax.atlas import analyze
from lgnn_jax.training import trained
from lgnn_jax.training.session import RunError


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


def test_figures_of_an_earlier_analysis_are_replaced(runs, tiny_dataset, tmp_path, analysis):
    """Those that it wrote, and no others, whatever its analysis.json says."""
    found = trained.load(runs[:1], tiny_dataset)
    request = {"visualize": "none", "classes": ("b",)}
    analysis(found, tiny_dataset, tmp_path, layers=("conv2_1", "conv5_2"), **request)
    folder = tmp_path / "figures"
    assert (folder / "conv2_1_distance.svg").exists()
    (folder / "conv2_1_mine.png").write_text("mine")
    (tmp_path / "other.png").write_text("mine")
    path = tmp_path / "analysis.json"
    before = json.loads(path.read_text())
    before["figures"] += ["../other", "conv9_missing"]
    path.write_text(json.dumps(before))
    document, _ = analysis(found, tiny_dataset, tmp_path, layers=("conv5_2",), **request)
    left = {file.name for file in folder.iterdir()}
    expected = {name + suffix for name in document["figures"] for suffix in (".png", ".svg")}
    assert left == expected | {"conv2_1_mine.png"}
    assert (tmp_path / "other.png").exists()
    for damaged in ("{", "[]", '{"figures": 3}', '{"figures": [3]}'):
        path.write_text(damaged)
        analysis(found, tiny_dataset, tmp_path, layers=("conv5_2",), **request)
        assert left == {file.name for file in folder.iterdir()}
