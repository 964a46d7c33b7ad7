import dataclasses

import pytest

from lgnn_jax.experiments.claims import claims
from lgnn_jax.experiments.results import Setting
from lgnn_jax.training.config import Config, Model, Som


def _setting(name, accuracies, deviations=(), *, neighbours=0.3, som=None):
    """A setting with runs, by seed; two layers each, shuffled maps at 0.02 +- 0.01."""
    config = Config(name, name.partition("-")[0], model=Model("vgg11"), som=som or Som())
    layer = {"neighbours": neighbours, "shuffled": 0.02, "shuffled_deviation": 0.01}
    deviations = deviations or [0.5] * len(accuracies)
    results = {
        seed: {
            "test_accuracy": accuracy / 100,
            "magnitudes": {"deviation_of_log": deviation},
            "maps": {"conv1_1": layer, "conv2_1": layer},
        }
        for seed, (accuracy, deviation) in enumerate(zip(accuracies, deviations, strict=True))
    }
    return Setting(name, config, results)


def _said(settings):
    return {claim.text: claim.findings for claim in claims(settings)}


def test_accuracy_by_seed():
    """Differences of 1, 1.1 and 1.2 points; of -1, 0 and 2; of -2, -2.1 and -2.2.

    With two degrees of freedom, p = 1 - t / sqrt(t^2 + 2): t is 1.1 / (0.1 / sqrt 3) = 19.05, then
    0.3780, then 36.37.
    """
    baseline = _setting("baseline", [70, 71, 72])
    said = _said([
        baseline,
        _setting("constant", [71, 72.1, 73.2]),
        _setting("decreasing", [69, 71, 74]),
        _setting("constant-all", [68, 68.9, 69.8]),
    ])["Accuracy is not hurt"]  # fmt: skip
    of = "points to the baseline (median of 3 seeds, t-test: p ="
    assert said == [
        f"constant: +1.10 {of} 0.0027): more accurate.",
        f"decreasing: +0.00 {of} 0.74): no difference is shown.",
        f"constant-all: -2.10 {of} 0.00076): less accurate.",
    ]


def test_settings_are_compared_with_their_own_kind():
    wide = Som(kernel_size=5, sigma=1.0)
    said = _said([
        _setting("constant", [71, 73]),
        _setting("constant-5x5-sigma1", [68, 71], som=wide),
        _setting("decreasing", [72, 74]),
        _setting("decreasing-5x5-sigma1", [65, 71], som=wide),
    ])  # fmt: skip
    assert [
        finding.partition(" (")[0] for finding in said["A 5x5 window costs more than two points"]
    ] == [
        "constant-5x5-sigma1: -2.50 points to constant",
        "decreasing-5x5-sigma1: -5.00 points to decreasing",
    ]
    assert [
        finding.partition(" (")[0]
        for finding in said["A decreasing sigma does as well as a constant one"]
    ] == [
        "decreasing: +1.00 points to constant",
        "decreasing-5x5-sigma1: -1.50 points to constant-5x5-sigma1",
    ]
    assert "Accuracy is not hurt" not in said  # no baseline to compare with


def test_a_loss_of_more_than_two_points():
    """Of 2.1, 2.2, 2.3, t is 0.2 sqrt 3 / 0.1 = 3.46 beyond 2, p = 0.074; of 3 to 3.2, 19.05.

    With two degrees of freedom p is 1 - t / sqrt(2 + t^2).
    """
    wide = Som(kernel_size=5, sigma=1.0)
    for accuracies, verdict in (
        ([67.9, 70.8, 73.7], "less accurate."),
        ([67.0, 69.9, 72.8], "less accurate, by more than 2 points (p = 0.0027)."),
        ([70.5, 73.6, 76.7], "more accurate."),
    ):
        settings = [
            _setting("constant", [70, 73, 76]),
            _setting("constant-5x5", accuracies, som=wide),
        ]
        (finding,) = _said(settings)["A 5x5 window costs more than two points"]
        assert finding.endswith(f": {verdict}")


def test_a_window_is_compared_with_the_same_sigma_or_the_papers():
    said = _said([
        _setting("constant", [70, 73]),
        _setting("constant-3x3-sigma2", [60, 61], som=Som(sigma=2.0)),
        _setting("constant-5x5-sigma2", [59, 60], som=Som(kernel_size=5, sigma=2.0)),
        _setting("constant-5x5-sigma1", [68, 71], som=Som(kernel_size=5, sigma=1.0)),
    ])["A 5x5 window costs more than two points"]  # fmt: skip
    assert [finding.partition(" (")[0] for finding in said] == [
        "constant-5x5-sigma2: -1.00 points to constant-3x3-sigma2",
        "constant-5x5-sigma1: -2.00 points to constant",
    ]


def test_spread_of_magnitudes():
    """Differences of -0.1, -0.11, -0.12, as of accuracy by hand; of both signs; and of nothing."""
    three = [70.0] * 3
    said = _said([
        _setting("baseline", three, [0.5, 0.6, 0.7]),
        _setting("constant", three, [0.4, 0.49, 0.58]),
        _setting("decreasing", three, [0.4, 0.6, 0.9]),
        _setting("constant-all", three, [0.5, 0.6, 0.7]),
    ])["Magnitudes of the first layer spread less"]  # fmt: skip
    assert said[0] == (
        "constant: deviation of log 0.490, the baseline's 0.600; smaller in 3 of 3 seeds "
        "(t-test: p = 0.0027): the spread is smaller."
    )
    assert said[1].endswith("smaller in 1 of 3 seeds (t-test: p = 0.74): no difference is shown.")
    assert said[2].endswith("smaller in 0 of 3 seeds (t-test: p = 1): no difference is shown.")


@pytest.mark.parametrize(
    ("neighbours", "verdict"),
    [
        (0.041, "4 of 4 maps (layers x seeds): they are."),
        (0.039, "0 of 4 maps (layers x seeds): not more than by chance."),
    ],
)
def test_neighbours_are_held_against_shuffled_maps(neighbours, verdict):
    """Two deviations above the shuffles' mean is 0.04."""
    (finding,) = _said([_setting("constant", [70, 71], neighbours=neighbours)])[
        "Neighbours are correlated"
    ]
    assert finding.endswith(verdict)


def test_one_seed_decides_nothing():
    said = _said([_setting("baseline", [70]), _setting("constant", [75], [0.1])])
    assert said["Accuracy is not hurt"] == [
        "constant: +5.00 points to the baseline, one seed, which decides nothing."
    ]
    (finding,) = said["Magnitudes of the first layer spread less"]
    assert finding.endswith("one seed, which decides nothing.")


def test_seeds_that_only_one_setting_has_and_networks_without_maps():
    lone = dataclasses.replace(_setting("constant", [70]), results={})
    assert _said([_setting("baseline", [70]), lone])["Neighbours are correlated"] == [
        "baseline: 0.300, shuffled 0.020; more than two deviations above it in 2 of 2 maps "
        "(layers x seeds): they are."
    ]
