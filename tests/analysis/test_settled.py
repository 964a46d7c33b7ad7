import json
from types import SimpleNamespace

import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis import settled
from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.agreement import agreement
from lgnn_jax.analysis.class_regions import class_regions
from lgnn_jax.analysis.settled import CHANCE, CLEAR, WEAK, judge
from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.analysis.topography import correlation_by_distance, neighbour_correlation
from lgnn_jax.analysis.trustworthiness import trustworthiness
from lgnn_jax.maps.settling import settle

NEURONS, CLASSES = 64, 8
MAP = lgnn.grid(8, 8)


def _tuned(samples=400, noise=0.5, seed=0):
    """Neurons tuned to angles, samples that show one; labels are eighths of the circle."""
    rng = np.random.default_rng(seed)
    tuned_to, shown = rng.uniform(0, 2 * np.pi, NEURONS), rng.uniform(0, 2 * np.pi, samples)
    features = np.cos(shown[:, None] - tuned_to) + noise * rng.normal(size=(samples, NEURONS))
    return features, (shown // (2 * np.pi / CLASSES)).astype(int)


def _one_factor(loadings=1.0, samples=400, seed=0):
    """What all neurons share, in so much of each, and noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(samples, NEURONS))
    return rng.normal(size=(samples, 1)) * loadings + noise


@pytest.fixture(scope="module")
def judged():
    return judge(*_tuned())


def test_halves(judged):
    features, _ = _tuned()
    assert (len(judged.settled_on), len(judged.held_out)) == (200, 200)
    assert sorted([*judged.settled_on, *judged.held_out]) == list(range(400))
    assert judged.noise == pytest.approx(200**-0.5)
    expected = settle(features[judged.settled_on])
    np.testing.assert_array_equal(judged.places, expected)
    other = judge(features, seed=1)
    assert set(other.held_out) != set(judged.held_out)
    odd = judge(features[:399])
    assert (len(odd.settled_on), len(odd.held_out)) == (199, 200)


def test_numbers_are_of_the_held_out_half(judged):
    features, labels = _tuned()
    places, held_out = judged.places, judged.held_out
    edges = MAP.edges()

    def neighbours(samples, order):
        correlations = np.corrcoef(features[samples][:, order].T)
        return np.mean([correlations[i, j] for i, j in edges])

    found = judged.order
    assert found.neighbours.value == pytest.approx(neighbours(held_out, places))
    assert judged.on_settled == pytest.approx(neighbours(judged.settled_on, places), abs=1e-6)
    assert judged.own_order == pytest.approx(neighbours(held_out, np.arange(NEURONS)), abs=1e-6)
    on_map = features[held_out][:, places].T
    alone = {
        "neighbours": neighbour_correlation(on_map, MAP, neuron_axis=0),
        "trustworthiness": trustworthiness(on_map, MAP),
    }
    for name, figure in alone.items():
        assert getattr(found, name).value == pytest.approx(figure.value)
        np.testing.assert_allclose(getattr(found, name).shuffled, figure.shuffled, atol=1e-6)
    curve = correlation_by_distance(on_map, MAP)
    np.testing.assert_allclose(found.by_distance.value, curve.value, atol=1e-6)

    means = class_means(features[held_out], labels[held_out], CLASSES)
    for order, values in (
        (places, [getattr(judged.classes, x).value for x in ("morans_i", "patch", "nearness")]),
        (np.arange(NEURONS), judged.classes.own_order),
    ):
        of_class = class_regions(means, MAP, order)
        expected = (of_class.morans_i.mean(), of_class.patch.mean(), 1 - of_class.spread.mean())
        np.testing.assert_allclose(values, expected, atol=1e-6)
    assert (judged.classes.classes, judged.classes.left_out) == (CLASSES, 0)


def test_agreement_is_that_of_maps_of_the_other_half_and_of_a_random_start(judged):
    features, _ = _tuned()
    others = {
        "other_half": settle(features[judged.held_out]),
        "other_start": settle(features[judged.settled_on], start="random", seed=1),
    }
    for name, other in others.items():
        expected = agreement(judged.places, other, MAP)
        found = getattr(judged, name)
        assert found.distances.value == expected.distances.value
        assert found.nearest.value == expected.nearest.value > 0.3
        np.testing.assert_array_equal(found.nearest.shuffled, expected.nearest.shuffled)


def test_a_clear_map(judged):
    assert judged.verdict == "clear map"
    assert judged.order.neighbours.value > 0.5 > 0.1 > judged.own_order
    classes = judged.classes
    assert max(classes.morans_i.p, classes.patch.p, classes.nearness.p) == 1 / 201
    assert classes.morans_i.value > 0.5 > 0.1 > abs(classes.own_order[0])


def test_it_is_the_same_again(judged):
    again = judge(*_tuned())
    assert again.as_json() == judged.as_json()
    assert str(again) == str(judged)


NO_MAPS = {
    "white noise": lambda: np.random.default_rng(1).normal(size=(400, NEURONS)),
    "each neuron's samples shuffled": lambda: np.random.default_rng(1).permuted(
        _tuned()[0], axis=0
    ),
    "one factor": _one_factor,
    "one strong factor": lambda: _one_factor(3.0),
    "one factor that few samples show": lambda: np.maximum(0, _one_factor() - 2),
    "heavy tails": lambda: np.random.default_rng(1).standard_t(1.5, size=(400, NEURONS)),
    "equal neurons": lambda: np.tile(_tuned()[0][:, :1], (1, NEURONS)),
}


@pytest.mark.parametrize("name", NO_MAPS)
def test_no_map(name):
    """Whatever chance made of it on the samples that placed the neurons."""
    found = judge(NO_MAPS[name]())
    assert found.verdict == "no map"
    assert found.reason.startswith("no more order than by chance (p = ")
    if "factor" in name:  # a high correlation is no map
        assert found.order.neighbours.value > 0.1
        assert found.order.neighbours.value == pytest.approx(found.own_order, abs=0.05)
    elif name != "equal neurons":
        assert found.on_settled > found.order.neighbours.value + 0.03


def test_dead_neurons_at_the_rim_are_no_order():
    """They lie together, so the others do; counted in, neighbours correlate more than shuffled."""
    features = _one_factor(3.0)
    features[:, ::3] = 0.25
    found = judge(features)
    on_map = features[found.held_out][:, found.places].T
    assert neighbour_correlation(on_map, MAP, neuron_axis=0).p == 1 / 201
    assert found.verdict == "no map"
    assert found.order.neighbours.p > CHANCE
    assert found.left_out.tolist() == list(range(0, NEURONS, 3))
    assert found.order.dead_count == 0
    assert "22 of them do not vary on a half" in str(found)
    assert judge(_tuned()[0] * (np.arange(NEURONS) % 3 > 0)).verdict == "clear map"


def test_neurons_that_fire_in_one_half_alone_are_left_out(judged):
    features, labels = _tuned()
    features[judged.settled_on, 3] = 0
    features[judged.held_out, 5] = -7
    found = judge(features, labels)
    assert found.left_out.tolist() == [3, 5]
    assert found.verdict == "clear map"


def test_what_is_in_the_settled_half_alone_is_no_map(judged):
    """Noise in place of the held-out samples."""
    features, _ = _tuned()
    shape = (len(judged.held_out), NEURONS)
    features[judged.held_out] = np.random.default_rng(0).normal(size=shape)
    found = judge(features)
    assert found.on_settled > 0.5
    assert found.verdict == "no map"


def test_faint_order_is_weak():
    features, _ = _tuned(noise=2.5)
    found = judge(features)
    assert found.verdict == "weak map"
    assert found.order.neighbours.p <= CHANCE


def test_order_by_the_share_of_noise_is_not_clear():
    """One factor, of which neurons have more or less: those that have more correlate more.

    Neighbours then correlate more than shuffled, but the nearest are not the most alike.
    """
    loadings = np.random.default_rng(0).uniform(0.1, 4, NEURONS)
    found = judge(_one_factor(loadings))
    neighbours = found.order.neighbours
    assert neighbours.p == 1 / 201
    assert neighbours.value > neighbours.shuffled.mean() + 0.05
    assert found.order.trustworthiness.value < 0.6
    assert found.verdict == "weak map"


def test_random_weights_have_a_map():
    """Rectified sums of five inputs with random weights: order is no sign of learning."""
    rng = np.random.default_rng(0)
    features = np.maximum(0, rng.normal(size=(400, 5)) @ rng.normal(size=(5, NEURONS)))
    assert judge(features).verdict == "clear map"


def test_a_network_whose_neurons_lie_on_a_map_already():
    features, labels = _tuned(samples=400)
    again = features[:, settle(features, MAP)]
    said = "The network's own order is as good: its neurons lie on a map already."
    assert said in str(judge(again, labels, MAP))
    assert said not in str(judge(features, labels, MAP))
    noise = np.random.default_rng(0).normal(size=(400, NEURONS))
    assert said not in str(judge(noise, labels, MAP))


def test_labels_that_are_not_known():
    features, labels = _tuned(samples=30)
    labels = np.where(np.arange(30) == 7, np.nan, labels)
    with pytest.raises(ValueError, match=r"^labels must be known, and that of sample 7 is nan\.$"):
        judge(features, labels)


def test_few_samples():
    features, labels = _tuned(samples=30, noise=3)
    found = judge(features, labels)
    assert found.verdict == "no map"
    assert found.reason.endswith("but 15 samples are few")
    assert found.classes.classes + found.classes.left_out == CLASSES
    assert found.classes.left_out == CLASSES - len(set(labels[found.held_out]))
    strong = judge(*_tuned(samples=30))  # enough for what is strong
    assert strong.verdict == "clear map"
    assert strong.reason.endswith("but 15 samples are few")
    assert judge(features[:4]).verdict == "no map"


def test_classes_without_a_held_out_sample_are_left_out(judged):
    """Names do as well as numbers."""
    features, labels = _tuned()
    names = np.array([*"abcdefgh", "rare"])[labels]
    names[judged.settled_on[:3]] = "rare"
    found = judge(features, names)
    assert (found.classes.classes, found.classes.left_out) == (CLASSES, 1)
    assert found.classes.morans_i.value == pytest.approx(judged.classes.morans_i.value)
    assert f"mean of {CLASSES} classes (1 left out)" in str(found)


def test_two_classes():
    features, labels = _tuned()
    found = judge(features, labels < CLASSES / 2)
    assert found.classes.classes == 2
    assert found.classes.morans_i.p == 1 / 201


MAPS = [lgnn.ring(NEURONS), lgnn.hexagonal(8, 8, wrap=True), lgnn.sphere(NEURONS), (16, 4)]


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_maps_of_other_shapes_and_options_of_settling(map):
    features, labels = _tuned()
    found = judge(features, labels, map, sweeps=20, start="pca")
    assert found.verdict == "clear map"
    expected = settle(features[found.settled_on], map, sweeps=20, start="pca")
    np.testing.assert_array_equal(found.places, expected)
    json.dumps(found.as_json(), allow_nan=False)


def test_json(judged):
    found = json.loads(json.dumps(judged.as_json(), allow_nan=False))
    assert (found["verdict"], found["map"], found["neurons"]) == ("clear map", [8, 8], 64)
    neighbours = judged.order.neighbours
    assert found["neighbours"] == {
        "value": neighbours.value,
        "shuffled": neighbours.shuffled.mean(),
        "p": neighbours.p,
        "own_order": judged.own_order,
        "on_settled": judged.on_settled,
    }
    assert len(found["by_distance"]["value"]) == len(judged.order.by_distance.distance)
    assert found["classes"]["patch"]["value"] == judged.classes.patch.value
    assert found["other_half"]["nearest"]["value"] == judged.other_half.nearest.value
    without = judge(_tuned()[0]).as_json()
    assert without["classes"] is None
    assert without["neighbours"] == found["neighbours"]  # labels have no part in it


def test_what_is_printed(judged):
    """The numbers, rounded, each beside that of chance."""
    lines = str(judged).splitlines()
    assert len(lines) == 12
    assert lines[0] == "Clear map: neurons beside each other are alike, on new samples too."
    assert lines[1] == "64 neurons on map 8x8, settled on 200 samples, judged on 200 others."
    neighbours, patch = judged.order.neighbours, judged.classes.patch
    assert lines[3].split()[-3:] == [
        f"{neighbours.value:.2f}",
        f"{round(neighbours.shuffled.mean(), 2) + 0:.2f}",
        f"{round(judged.own_order, 2) + 0:.2f}",
    ]
    (line,) = (line for line in lines if "in one patch" in line)
    assert line.split()[-6:] == [
        f"{100 * patch.value:.0f}", "%", f"{100 * patch.shuffled.mean():.0f}", "%",
        f"{100 * judged.classes.own_order[1]:.0f}", "%",
    ]  # fmt: skip
    few = judge(np.random.default_rng(0).normal(size=(6, 3)), [0, 0, 0, 1, 1, 1], (3, 1))
    for line in [*lines, *str(few).splitlines()]:
        assert len(line) <= 80
        assert "-0.00" not in line


def test_the_rule_is_what_the_docstring_says():
    text = " ".join(judge.__doc__.split())
    assert f"at least {CLEAR[0]} for neighbours, at least {CLEAR[1]} for trustworthiness" in text
    assert f"at least {WEAK[0]} and {WEAK[1]}, both p at most {CHANCE}" in text


def test_few_neurons():
    features = np.random.default_rng(0).normal(size=(40, 3))
    assert judge(features[:, :2]).verdict == "no map"  # there is but one order of two
    assert judge(features).verdict == "no map"
    for few in (features[:, :1], features * [0, 0, 1], np.ones((40, 3))):
        with pytest.raises(ValueError, match=r"neurons vary over both .* at least 2 are needed"):
            judge(few)


def test_neurons_that_vary_but_are_no_neighbours(judged):
    """All but two fire in one half alone: the others of this half lie anywhere."""
    features, _ = _tuned()
    apart = judged.places[[0, 63]]
    silent = np.setdiff1d(np.arange(NEURONS), apart)
    features[np.ix_(judged.held_out, silent)] = 0
    with pytest.raises(ValueError, match=r"2 of 64 neurons .* no two of them are neighbours"):
        judge(features)


def test_what_cannot_be_judged():
    features, labels = _tuned(samples=40)
    with pytest.raises(ValueError, match="4 samples or more, better hundreds, got 3"):
        judge(features[:3])
    with pytest.raises(ValueError, match=r"labels must have shape \(40,\), .* got \(39,\)"):
        judge(features, labels[1:])
    with pytest.raises(ValueError, match="at least 2 classes, got 7 alone"):
        judge(features, np.full(40, 7))
    with pytest.raises(ValueError, match="shuffles must be at least 99, got 50"):
        judge(features, shuffles=50)
    with pytest.raises(ValueError, match="map 7x7 has 49 places, and features have 64 neurons"):
        judge(features, map=(7, 7))
    held_out = judge(features).held_out
    rare = np.isin(np.arange(40), np.setdiff1d(np.arange(40), held_out)[:2])
    with pytest.raises(ValueError, match="2 classes among the 20 held-out samples: take more"):
        judge(features, rare)
    features[31, 4] = np.nan
    with pytest.raises(ValueError, match="neuron 4 has nan on sample 31"):
        judge(features)


@pytest.mark.parametrize("chance", ["neighbours", "trustworthiness"])
def test_a_map_takes_both_statistics_beyond_chance(chance):
    def against(value, shuffled):
        return AgainstShuffles(value, np.full(199, shuffled))

    statistics = {"neighbours": against(0.5, 0.0), "trustworthiness": against(0.9, 0.5)}
    order = SimpleNamespace(**statistics)
    assert settled._verdict(order, 500)[0] == "clear map"
    # As far from the mean of the shuffles, but some of these come as far.
    value, shuffled = statistics[chance].value, statistics[chance].shuffled.copy()
    shuffled[:20] = value
    setattr(order, chance, AgainstShuffles(value, shuffled))
    verdict, reason = settled._verdict(order, 500)
    assert verdict == "no map"
    assert "by chance (p = 0.1" in reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffles": 99.5}, "shuffles must be a whole number"),
        ({"shuffles": "x"}, "shuffles must be a whole number"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        ({"labels": [[0], [1, 2]]}, "labels must be numbers or names"),
        ({"labels": [None, 1] * 20}, "labels must be numbers or names"),
    ],
)
def test_what_judge_cannot_take(options, message):
    features = np.random.default_rng(0).normal(size=(40, 6))
    with pytest.raises(ValueError, match=message):
        judge(features, **options)
