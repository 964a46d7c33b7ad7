import dataclasses

import pytest

from lgnn_jax.claims import claims
from lgnn_jax.config import Config, Model, Som
from lgnn_jax.results import Runs


def _runs(name, accuracies, deviations=(), *, neighbours=0.3, som=None):
    """Runs of one setting, by seed; two layers each, shuffled maps at 0.02 +- 0.01."""
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
    return Runs(name, config, results)


def _said(settings):
    return {claim.text: claim.findings for claim in claims(settings)}


def test_accuracy_by_seed():
    """Differences of 1, 2 and 3 points; of -1, 0 and 2; all seeds below."""
    baseline = _runs("baseline", [70, 71, 72])
    said = _said([
        baseline,
        _runs("constant", [71, 73, 75]),
        _runs("decreasing", [69, 71, 74]),
        _runs("constant-all", [68, 69, 71]),
    ])["Accuracy is not hurt"]  # fmt: skip
    ends = ["+1.00 to +3.00): more accurate.", "-1.00 to +2.00): no difference is shown."]
    ends.append("-2.00 to -1.00): less accurate.")
    starts = ["constant: +2.00", "decreasing: +0.00", "constant-all: -2.00"]
    for finding, start, end in zip(said, starts, ends, strict=True):
        assert finding.startswith(f"{start} points to the baseline (median of 3 seeds, 95 % ")
        assert finding.endswith(end)


def test_settings_are_compared_with_their_own_kind():
    wide = Som(kernel_size=5, sigma=1.0)
    said = _said([
        _runs("constant", [71, 73]),
        _runs("constant-5x5-sigma1", [68, 71], som=wide),
        _runs("decreasing", [72, 74]),
        _runs("decreasing-5x5-sigma1", [65, 71], som=wide),
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
    """Differences of -1.5 and -3: the interval reaches from one to the other; of -2.5 and -3."""
    wide = Som(kernel_size=5, sigma=1.0)
    for accuracies, verdict in (
        ([68.5, 70.0], "-3.00 to -1.50): less accurate."),
        ([67.5, 70.0], "-3.00 to -2.50): less accurate, by more than 2 points."),
        ([70.5, 73.5], "+0.50 to +0.50): more accurate."),
    ):
        settings = [_runs("constant", [70, 73]), _runs("constant-5x5", accuracies, som=wide)]
        (finding,) = _said(settings)["A 5x5 window costs more than two points"]
        assert finding.endswith(verdict)


def test_spread_of_magnitudes_by_the_sign_test():
    """All of six seeds: p = 2 / 2**6 = 0.031; five of six: 2 * 7 / 2**6 = 0.22."""
    six = [70.0] * 6
    said = _said([
        _runs("baseline", six, [0.5] * 6),
        _runs("constant", six, [0.4] * 6),
        _runs("decreasing", six, [0.4] * 5 + [0.6]),
        _runs("constant-all", six, [0.6] * 6),
    ])["Magnitudes of the first layer spread less"]  # fmt: skip
    assert "0.400, the baseline's 0.500; smaller in 6 of 6" in said[0]
    assert said[0].endswith("p = 0.031): the spread is smaller.")
    assert "smaller in 5 of 6 seeds (sign test, p = 0.22): no difference is shown." in said[1]
    assert "smaller in 0 of 6 seeds (sign test, p = 0.031): the spread is larger." in said[2]


@pytest.mark.parametrize(
    ("neighbours", "verdict"),
    [
        (0.041, "4 of 4 maps (layers x seeds): they are."),
        (0.039, "0 of 4 maps (layers x seeds): not more than by chance."),
    ],
)
def test_neighbours_are_held_against_shuffled_maps(neighbours, verdict):
    """Two deviations above the shuffles' mean is 0.04."""
    (finding,) = _said([_runs("constant", [70, 71], neighbours=neighbours)])[
        "Neighbours are correlated"
    ]
    assert finding.endswith(verdict)


def test_one_seed_decides_nothing():
    said = _said([_runs("baseline", [70]), _runs("constant", [75], [0.1])])
    assert said["Accuracy is not hurt"] == [
        "constant: +5.00 points to the baseline, one seed, which decides nothing."
    ]
    (finding,) = said["Magnitudes of the first layer spread less"]
    assert finding.endswith("one seed, which decides nothing.")


def test_seeds_that_only_one_setting_has_and_networks_without_maps():
    lone = dataclasses.replace(_runs("constant", [70]), results={})
    assert _said([_runs("baseline", [70]), lone])["Neighbours are correlated"] == [
        "baseline: 0.300, shuffled 0.020; more than two deviations above it in 2 of 2 maps "
        "(layers x seeds): they are."
    ]
