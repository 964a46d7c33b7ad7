import pytest

import lgnn_jax as lgnn
from lgnn_jax.maps.grid import Grid
from lgnn_jax.training.named_maps import map_from_text


@pytest.mark.parametrize(
    ("text", "map"),
    [
        ("grid", lgnn.grid(8, 4)),
        ("torus", lgnn.grid(8, 4, wrap=True)),
        ("hexagonal", lgnn.hexagonal(8, 4)),
        ("line", lgnn.line(32)),
        ("ring", lgnn.ring(32)),
        ("sphere", lgnn.sphere(32)),
        ("4x8", lgnn.grid(4, 8)),
        ("32", lgnn.line(32)),
        ("2x4x4", lgnn.grid(2, 4, 4)),
        ("grid:4x8", lgnn.grid(4, 8)),
        ("torus:4x8", lgnn.grid(4, 8, wrap=True)),
        ("hexagonal:4x8", lgnn.hexagonal(4, 8)),
    ],
)
def test_maps_by_a_word(text, map):
    assert map_from_text(text, 32) == map


def test_a_map_of_ones_own(folder):
    (folder / "rows.py").write_text(
        "import lgnn_jax\n\ndef map(n):\n    return lgnn_jax.grid(n, 1)"
    )
    found = map_from_text("rows.py", 6)
    assert isinstance(found, Grid)
    assert found.sides == (6, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tours", "no map 'tours'; did you mean 'torus'? A map is ROWSxCOLUMNS, torus:ROWS"),
        ("ring:8x4", "no map 'ring:8x4'"),
        ("8x", "no map '8x'"),
        ("8x-4", "no map '8x-4'"),
        ("", "no map ''"),
        ("8x5", "map 8x5 has 40 places for 32 neurons."),
        ("999999999x999999999", "has 999999998000000001 places for 32 neurons."),
        ("0x4", "grid takes one to three sides, each at least 1, got 0x4."),
        ("2x2x2x4", "grid takes one to three sides"),
        ("hexagonal:2x4x4", "map 'hexagonal:2x4x4': hexagons have two sides, rows and columns."),
        ("absent.py", "there is no file 'absent.py'"),
        ("number.py", "number.py: map must return a Map, got int."),
    ],
)
def test_words_that_name_no_map(folder, text, message):
    (folder / "number.py").write_text("def map(n):\n    return n")
    with pytest.raises(ValueError, match=r"^.*$") as error:
        map_from_text(text, 32)
    assert message in str(error.value)
