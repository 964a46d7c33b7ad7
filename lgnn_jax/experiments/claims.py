"""What the runs of a sweep say of the paper's claims: a sentence each, with its numbers."""

from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from lgnn_jax.experiments.results import Setting, differences, find_baseline
from lgnn_jax.methods.method import Filter


class Claim(NamedTuple):
    """A claim of the paper, and what the runs say of it."""

    text: str
    findings: list[str]  # a sentence for each setting that it is about


def claims(settings: list[Setting]) -> list[Claim]:
    """Returns those of the paper's claims that the settings of a sweep can be held against.

    Verdicts follow from numbers alone. A difference, paired by seed, is shown where Student's
    t-test gives p < 0.05; correlated neighbours where those of nearly all layers and seeds are more
    than two deviations above shuffled maps.

    Args:
      settings: see `lgnn_jax.experiments.results.collect`.

    Reference:
      Sections III-A (windows), IV-A (accuracy), IV-B (magnitudes) and IV-C (neighbours).
    """
    baseline = find_baseline(settings)
    filtered = [setting for setting in settings if setting is not baseline]
    found = []
    if baseline is not None:
        found.append(_claim("Accuracy is not hurt", _gains(filtered, baseline)))
    found += [
        _claim("A decreasing sigma does as well as a constant one", _decreasing(filtered)),
        _claim("A 5x5 window costs more than two points", _windows(filtered)),
    ]
    if baseline is not None:
        found.append(
            _claim("Magnitudes of the first layer spread less", _spreads(filtered, baseline))
        )
    found.append(_claim("Neighbours are correlated", [_neighbours(s) for s in settings]))
    return [claim for claim in found if claim.findings]


def _claim(text, findings):
    return Claim(text, [finding for finding in findings if finding])


def _gains(filtered, baseline):
    return [_compare(setting, baseline, "the baseline") for setting in filtered]


def _decreasing(filtered):
    constant = {_but_schedule(s): s for s in filtered if _filter(s).schedule == "constant"}
    pairs = [(setting, constant.get(_but_schedule(setting))) for setting in filtered]
    return [
        _compare(setting, other, other.name)
        for setting, other in pairs
        if other is not None and _filter(setting).schedule == "decreasing"
    ]


def _filter(setting):
    return setting.config.method.filter or Filter(sigma=0.0)


def _but_schedule(setting):
    found = _filter(setting)
    return setting.config.som.layers, found.kernel_size, found.sigma


def _windows(filtered):
    findings = []
    for setting in filtered:
        own = _filter(setting)
        smaller = [
            other
            for other in filtered
            if (_filter(other).schedule, other.config.som.layers, _filter(other).kernel_size)
            == (own.schedule, setting.config.som.layers, 3)
        ]
        if own.kernel_size != 5 or not smaller:
            continue
        # With the same sigma, or else with the paper's.
        sigmas = {_filter(other).sigma for other in smaller}
        sigma = own.sigma if own.sigma in sigmas else 0.5
        same = [other for other in smaller if _filter(other).sigma == sigma]
        findings += [_compare(setting, other, other.name, loss=2.0) for other in same]
    return findings


def _compare(setting, other, name, loss=0.0):
    """How much more accurate a setting is than another; None if no seed has both.

    With a `loss`, whether it is less accurate by more than so many points.
    """
    points = np.array(list(differences(setting, other).values()))
    if not points.size:
        return None
    start = f"{setting.name}: {np.median(points):+.2f} points to {name}"
    if len(points) == 1:
        return f"{start}, one seed, which decides nothing."
    p = _p(points)
    verdict = "no difference is shown"
    if p < 0.05:
        verdict = "more accurate" if points.mean() > 0 else "less accurate"
        if loss and points.mean() < -loss and (p_loss := _p(points + loss)) < 0.05:
            verdict += f", by more than {loss:g} points (p = {p_loss:.2g})"
    return f"{start} (median of {len(points)} seeds, t-test: p = {p:.2g}): {verdict}."


def _spreads(filtered, baseline):
    return [_spread(setting, baseline) for setting in filtered]


def _spread(setting, baseline):
    def deviations(setting):
        return {s: r["magnitudes"]["deviation_of_log"] for s, r in setting.results.items()}

    ours, theirs = deviations(setting), deviations(baseline)
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    ours, theirs = (np.array([values[seed] for seed in seeds]) for values in (ours, theirs))
    start = (
        f"{setting.name}: deviation of log {np.median(ours):.3f}, the baseline's "
        f"{np.median(theirs):.3f}"
    )
    if len(seeds) == 1:
        return f"{start}, one seed, which decides nothing."
    p = _p(ours - theirs)
    verdict = "no difference is shown"
    if p < 0.05:
        verdict = "the spread is smaller" if ours.mean() < theirs.mean() else "the spread is larger"
    smaller = int((ours < theirs).sum())
    return f"{start}; smaller in {smaller} of {len(seeds)} seeds (t-test: p = {p:.2g}): {verdict}."


def _p(values):
    """Two-sided p-value of Student's t-test that the mean is 0; 1 if the values do not vary."""
    spread = np.ptp(values) > 1e-9 * np.abs(values).max()
    return float(ttest_1samp(values, 0).pvalue) if spread else 1.0


def _neighbours(setting):
    layers = [layer for result in setting.results.values() for layer in result["maps"].values()]
    if not layers:
        return None
    above = sum(x["neighbours"] > x["shuffled"] + 2 * x["shuffled_deviation"] for x in layers)
    mean, shuffled = (np.mean([x[name] for x in layers]) for name in ("neighbours", "shuffled"))
    # Of unordered maps one in forty is that far above, were the shuffles normally distributed.
    if above >= 0.95 * len(layers):
        verdict = "they are"
    else:
        verdict = "not more than by chance" if above <= 0.1 * len(layers) else "in some layers"
    return (
        f"{setting.name}: {mean:.3f}, shuffled {shuffled:.3f}; more than two deviations above it "
        f"in {above} of {len(layers)} maps (layers x seeds): {verdict}."
    )
