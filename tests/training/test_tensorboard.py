import dataclasses
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from lgnn_jax.analysis.filters import normalized_filters
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run
from lgnn_jax.training.tensorboard import mosaic


def _events(folder):
    """All events of a folder: each is its length, a checksum, its bytes and a checksum."""
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16


def _values(folder):
    return [(event.step, v) for event in _events(folder) for v in event.summary.value]


@pytest.mark.usefixtures("one_device")
def test_a_run_writes_its_metrics_and_its_first_layer(tiny_config, tiny_dataset, tmp_path):
    """And writes on where it goes on."""
    for epochs in (1, 2):
        config = dataclasses.replace(tiny_config, epochs=epochs)
        with Log(tensorboard=True) as log:
            _, plan, state = run(config, tiny_dataset, tmp_path, log, resume=epochs > 1)
    values = _values(tmp_path / "tensorboard")
    found = {(step, v.tag): v.simple_value for step, v in values if v.tag != "filters"}
    expected = {}
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name in ("loss", "accuracy", "learning_rate", "sigma", "images_per_second"):
            expected[record["step"], f"{record['split']}/{name}"] = record[name]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6)
    pictures = [(step, v.image.encoded_image_string) for step, v in values if v.tag == "filters"]
    assert [step for step, _ in pictures] == [6, 12]
    kernel = np.asarray(state.params["conv1_1"]["kernel"])
    shown = np.asarray(Image.open(io.BytesIO(pictures[-1][1])))
    np.testing.assert_array_equal(shown, mosaic(kernel, plan.maps["conv1_1/kernel"].map))
    assert [event.session_log.status for event in _events(tmp_path / "tensorboard")].count(1) == 1


@pytest.mark.usefixtures("one_device")
def test_without_it_nothing_is_written(tiny_config, tiny_dataset, tmp_path):
    with Log() as log:
        run(dataclasses.replace(tiny_config, epochs=1), tiny_dataset, tmp_path, log)
    assert not (tmp_path / "tensorboard").exists()


def test_filters_lie_on_the_map_row_by_row():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8))
    picture = mosaic(kernel, (4, 2))
    expected = (255 * normalized_filters(kernel)).round()
    for number in range(8):
        row, column = divmod(number, 2)
        corner = picture[35 * row : 35 * row + 33 : 11, 35 * column : 35 * column + 33 : 11]
        np.testing.assert_array_equal(corner, expected[number])
    assert (picture[33:35] == 128).all()


def test_other_colours_are_shown_as_their_mean():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 4))
    mean = kernel.mean(axis=2, keepdims=True)
    np.testing.assert_array_equal(mosaic(kernel, (2, 2)), mosaic(mean, (2, 2)))


def test_filters_lie_on_any_map_where_its_layout_has_them():
    """Each is found once and whole, where its hexagon is; so none covers another."""
    map = hexagonal(4, 3)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 12))
    picture = mosaic(kernel, map)
    tiles = (255 * normalized_filters(kernel)).round().repeat(11, axis=1).repeat(11, axis=2)
    corners = []
    for tile in tiles:
        same = [
            (top, left)
            for top in range(picture.shape[0] - 32)
            for left in range(picture.shape[1] - 32)
            if np.array_equal(picture[top : top + 33 : 11, left : left + 33 : 11], tile[::11, ::11])
            and np.array_equal(picture[top : top + 33, left : left + 33], tile)
        ]
        corners += same
    assert len(corners) == 12
    # Rows are as high as a filter and the grey below it; the others follow from their shape.
    row, column = np.divmod(np.arange(12), 3)
    wide = 35 / np.sqrt(0.75)
    expected = np.stack([35 * row, wide * (column + row % 2 / 2)], axis=1)
    assert np.abs(np.array(corners) - expected).max() <= 1
    with pytest.raises(ValueError, match="map 4x4 hexagonal does not fit 12 filters"):
        mosaic(kernel, hexagonal(4, 4))
