"""How fast neurons settle on a map, and how orderly the map is, beside what else there is.

    pip install umap-learn minisom rasterfairy vc_flas
    python benchmarks/settling.py --data-dir DIR [--parts speed large order others draws]
        [--output settling.json]

The packages are for the rows of other methods alone; a row whose package is missing is left out.

Parts `speed` and `large` time `settle` on features that are drawn: `large` takes minutes and
gigabytes, and is not done unless it is named. The other parts have the 1,280 last features of
EfficientNet-Lite0, trained on ImageNet, means over pixels, of CIFAR-100's test images at 128x128. A
map is made of 1,500 images, and judged by 1,500 others:

- next neighbours, distance 2, 3, 6: mean correlation of two neurons that far apart on the map
- Moran's I: of the responses to a class, mean over the 100 classes; 0 without order
- trustworthiness, 10 neighbours: .5 without order, 1 if the nearest on the map are the most alike
- largest patch: the share of the 5 % of neurons that respond most to a class that touch
- spread: the mean distance of two of them, over that of two places; 1 without order

Part `order` has settings of `settle`, `others` other methods (see layouts.py). Part `draws` makes
maps of other images, by `settle` and the quick ones, and judges them by others again.
"""

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tyro
from memory import peak_bytes
from timing import environment, report

import lgnn_jax as lgnn
from lgnn_jax.maps.grid import grid, som_dimensions
from lgnn_jax.maps.settling import settle

Part = Literal["speed", "large", "order", "others", "draws"]
SAMPLES = 1500  # with which a map is made, and as many others that judge it
MAP = (40, 32)
DRAWS = 5
# What is promised: seconds of a later call, and bytes.
SECONDS = {512: 0.3, 1280: 1.0, 4096: 20.0}
LARGE, LARGE_BYTES = 16_384, 8 * 2**30
BOUNDS = {
    "next neighbours": ">= .150",
    "Moran's I": ">= .27",
    "trustworthiness": ">= .86",
    "largest patch": "> .20",
    "spread": "< .87",
}
MEASURES = (
    *("next neighbours", "distance 2", "distance 3", "distance 6"),
    *("Moran's I", "trustworthiness", "largest patch", "spread"),
)
_BOUNDS_ROW = ["bound of settle", *(BOUNDS.get(name, "") for name in MEASURES), ""]
RANDOM = "of the five random starts: largest - smallest, for next neighbours to be < .01"
# Whatever takes longer than this is called once, anything else once more, for later calls are what
# counts: the first compiles.
LONG = 20.0
# Of layouts.py, those that part `draws` has.
QUICK = (
    "UMAP, assigned",
    "t-SNE, perplexity 50, assigned",
    "FLAS (vc_flas), radius decay 0.93",
    "SOM, batch, 100 epochs",
)


@dataclass(frozen=True)
class Arguments:
    """How fast neurons settle on a map, and how orderly the map is."""

    parts: tuple[Part, ...] = ("speed", "order", "others", "draws")
    """Which tables."""
    data_dir: Path | None = None
    """Where a prepared CIFAR-100 lies, as for `lgnn train`."""
    repeats: int = 9
    """Later calls of which part `speed` takes the median."""
    output: Path | None = None
    """Where to write the figures as JSON; what the file has of other parts stays."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes, part by part."""
    if arguments.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1, got {arguments.repeats}.")
    parts = [part for part in get_args(Part) if part in arguments.parts]
    answers = _answers(arguments.data_dir) if set(parts) & {"order", "others", "draws"} else None
    tables = {
        "speed": lambda: speed(arguments.repeats),
        "large": large,
        "order": lambda: order(*answers),
        "others": lambda: others(*answers),
        "draws": lambda: draws(*answers),
    }
    for part in parts:
        header = environment(
            *("jax", "numpy", "scipy", "scikit-learn"),
            *(("umap-learn", "minisom", "rasterfairy", "vc_flas") if part == "others" else ()),
        )
        title, columns, rows, data = tables[part]()
        report(title, header, columns, rows, data, None)
        print(flush=True)
        if arguments.output is not None:
            _keep(part, {"title": title, "environment": header, "data": data}, arguments.output)


def speed(repeats: int):
    """Seconds of the first call in a process, and of later ones."""
    rows, data = [], {}
    for neurons, bound in SECONDS.items():
        found = _in_new_process(_settled, neurons, repeats)
        median = float(np.median(found["later"]))
        row = [f"{neurons:,}", _sides(neurons), f"{found['first']:.2f} s", f"{median:.2f} s"]
        row += [f"<= {bound} s", _holds(median <= bound), f"{found['peak_bytes'] / 2**30:.2f} GiB"]
        rows.append(row)
        data[neurons] = found | {"median": median, "bound": bound}
    columns = ["neurons", "map", "first call", f"later calls, median of {repeats}", "bound"]
    return (
        f"settle: seconds, {SAMPLES:,} samples",
        [*columns, "holds", "peak memory of the process"],
        rows,
        data,
    )


def large():
    """One call on many neurons, in a process of its own, for its memory."""
    found = _in_new_process(_settled, LARGE, 0)
    peak = found["peak_bytes"]
    row = [f"{LARGE:,}", _sides(LARGE), f"{found['first']:.0f} s"]
    row += [f"{peak / 2**30:.2f} GiB", f"<= {LARGE_BYTES / 2**30:.0f} GiB"]
    columns = ["neurons", "map", "first call", "peak memory of the process", "bound", "holds"]
    data = {LARGE: found | {"bound_bytes": LARGE_BYTES}}
    return f"settle, {LARGE:,} neurons", columns, [[*row, _holds(peak <= LARGE_BYTES)]], data


def _sides(neurons):
    return "x".join(map(str, som_dimensions(neurons)))


def _in_new_process(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _settled(neurons, repeats):
    """Seconds by call and the peak memory of this process, which has to be new."""
    features, seconds = drawn_features(neurons), []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        settle(features)
        seconds.append(time.perf_counter() - started)
    return {"first": seconds[0], "later": seconds[1:], "peak_bytes": peak_bytes()}


def drawn_features(neurons: int) -> np.ndarray:
    """Returns answers of neurons that have causes in common, rectified: `(samples, neurons)`.

    As of a real layer: some causes drive much, most of them little, and half of what a neuron
    answers is its own.
    """
    rng = np.random.default_rng(0)
    strengths = 1 / np.sqrt(np.arange(1, 101))
    strengths /= np.linalg.norm(strengths)
    causes = rng.normal(size=(SAMPLES, 100)) * strengths
    driven = causes @ rng.normal(size=(100, neurons)) + rng.normal(size=(SAMPLES, neurons))
    return np.maximum(driven, 0).astype(np.float32)


def order(features: np.ndarray, labels: np.ndarray):
    """The network's own order, and maps by settings of `settle`."""
    made, judge = _first(features, labels)
    calls = {"settle": _call(made)}
    for start in ("spectral", "pca", "random"):
        calls[f'start "{start}" alone, no sweeps'] = _call(made, start=start, sweeps=0)
    calls['start "pca"'] = _call(made, start="pca")
    random = [f'start "random", seed {seed}' for seed in range(5)]
    for seed, name in enumerate(random):
        calls[name] = _call(made, start="random", seed=seed)
    for sweeps in (30, 60, 100, 200):
        calls[f"{sweeps} sweeps"] = _call(made, sweeps=sweeps)
    data = {"the network's own order": judge(np.arange(made.shape[1]))}
    data |= {name: judge(*_timed(call)) for name, call in calls.items()}
    data[RANDOM] = {key: float(np.ptp([data[name][key] for name in random])) for key in MEASURES}
    rows = [_BOUNDS_ROW, *(_row(name, found) for name, found in data.items())]
    return "settle: order", ["", *MEASURES, "time"], rows, data


def _call(made, **options) -> Callable[[], np.ndarray]:
    return lambda: settle(made, MAP, **options)


def others(features: np.ndarray, labels: np.ndarray):
    """What else lays neurons out, on the same images."""
    from layouts import LAYOUTS

    made, judge = _first(features, labels)
    data = {"settle": judge(*_timed(lambda: settle(made, MAP)))}
    for name, layout in LAYOUTS.items():
        try:
            data[name] = judge(*_timed(lambda layout=layout: layout(made, grid(*MAP))))
        except ImportError as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        print(f"{name} done", flush=True)
    rows = [_row(name, found) for name, found in data.items()]
    return "settle and other methods", ["", *MEASURES, "time"], rows, data


def draws(features: np.ndarray, labels: np.ndarray):
    """Maps of other draws of images: the mean over the draws, and the range."""
    from layouts import LAYOUTS

    calls = {"settle": settle} | {name: LAYOUTS[name] for name in QUICK}
    data = {name: [] for name in calls}
    for seed in range(DRAWS):
        drawn = np.random.default_rng(seed).permutation(len(features))
        made, others = drawn[:SAMPLES], drawn[SAMPLES : 2 * SAMPLES]
        judge = Judge(features[others], labels[others])
        for name, layout in list(calls.items()):
            try:
                data[name].append(judge(layout(features[made], grid(*MAP))))
            except ImportError as error:
                print(f"{name}: left out, {error}", flush=True)
                del calls[name], data[name]
        print(f"draw {seed + 1} done", flush=True)
    rows = []
    for name, found in data.items():
        values = np.array([[judged[key] for key in MEASURES] for judged in found])
        low, mean, high = values.min(axis=0), values.mean(axis=0), values.max(axis=0)
        cells = zip(mean, low, high, strict=True)
        rows.append([name, *(f"{_short(m)} ({_short(a)} to {_short(b)})" for m, a, b in cells)])
    title = f"{DRAWS} other draws of images: mean (smallest to largest)"
    return title, ["", *MEASURES], [_BOUNDS_ROW[:-1], *rows], data


class Judge:
    """Measures order on a map by what the neurons answer to images."""

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        """Takes images that had no part in the map."""
        from lgnn_jax.analysis.activations import class_means

        self.features = features
        self.means = class_means(features, labels, 100)

    def __call__(self, places: np.ndarray, seconds: float | None = None) -> dict[str, float]:
        """Returns the measures by name, and the seconds."""
        from lgnn_jax.analysis.class_regions import class_regions
        from lgnn_jax.analysis.topography import correlation_by_distance, neighbour_correlation
        from lgnn_jax.analysis.trustworthiness import trustworthiness

        answers = self.features[:, places].T
        curve = correlation_by_distance(answers, MAP, shuffles=1).value
        regions = class_regions(self.means, MAP, places)
        found = (
            neighbour_correlation(answers, MAP, neuron_axis=0, shuffles=1).value,
            *(curve[distance - 1] for distance in (2, 3, 6)),
            regions.morans_i.mean(),
            trustworthiness(answers, MAP, neighbours=10, shuffles=1).value,
            regions.patch.mean(),
            regions.spread.mean(),
        )
        found = dict(zip(MEASURES, map(float, found), strict=True))
        return found if seconds is None else found | {"seconds": seconds}


def _first(features, labels):
    """Features of the images that make a map, and the judge with the images that follow."""
    judging = slice(SAMPLES, 2 * SAMPLES)
    return features[:SAMPLES], Judge(features[judging], labels[judging])


def _answers(data_dir):
    """EfficientNet-Lite0's last features of CIFAR-100's test images, and the images' classes."""
    from lgnn_jax.models.efficientnet_lite import efficientnet_lite0, preprocess
    from lgnn_jax.training.data import DataError, load

    try:
        dataset = load("cifar100", data_dir)
        network, params, state = efficientnet_lite0()
    except (DataError, ModuleNotFoundError) as error:
        raise SystemExit(str(error)) from None
    images, size = dataset.test_images, 20
    starts = range(0, len(images), size)
    batches = (np.asarray(preprocess(images[i : i + size], 128)) for i in starts)
    found = lgnn.activations(network, batches, params, state, layers=["features"], batch_size=size)
    return found["features"], dataset.test_labels


def _timed(call):
    """What a call returns, and its seconds: those of a second call, unless the first took long."""
    for _ in range(2):
        started = time.perf_counter()
        places = call()
        seconds = time.perf_counter() - started
        if seconds > LONG:
            break
    return places, seconds


def _row(name, found):
    time = found.get("seconds")
    seconds = "" if time is None else f"{time:.0f} s" if time >= 10 else f"{time:.2g} s"
    return [name, *(_short(found[key]) for key in MEASURES), seconds]


def _short(value):
    """As in .152 or -.001."""
    return f"{value:.3f}".replace("0.", ".", 1)


def _holds(valid):
    return "yes" if valid else "no"


def _keep(part, document, output):
    """Writes a part to the file, beside those that it has."""
    try:
        kept = json.loads(output.read_text()) if output.exists() else {}
        output.write_text(json.dumps(kept | {part: document}, indent=2) + "\n")
    except (OSError, ValueError) as error:
        raise SystemExit(f"--output: cannot write {output}: {error}.") from error


if __name__ == "__main__":
    main(tyro.cli(Arguments))
