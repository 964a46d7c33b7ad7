import jax
import numpy as np
import pytest

import lgnn_jax as lgnn

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_decreasing_sigma_is_equation_4():
    steps_per_epoch, epochs = 7, 5
    schedule = jax.jit(lgnn.decreasing_sigma(0.5, steps_per_epoch=steps_per_epoch, epochs=epochs))
    for step in range(steps_per_epoch * epochs):
        expected = 0.5 * (1 - (step // steps_per_epoch) / epochs)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-6)
    assert float(schedule(steps_per_epoch * epochs)) == 0
    assert float(schedule(10**6)) == 0


def test_annealed_sigma_falls_by_the_same_factor_in_each_step():
    schedule = jax.jit(lgnn.annealed_sigma(5.0, 0.4, steps=60))
    found = np.array([schedule(step) for step in range(80)])
    np.testing.assert_allclose(found[:61], 5.0 * (0.4 / 5.0) ** (np.arange(61) / 60), rtol=1e-6)
    assert (found[60:] == found[60]).all()
    assert lgnn.annealed_sigma(0.5, 0.5, steps=1)(0) == 0.5


def test_constant_sigma():
    assert lgnn.constant_sigma(0.7)(123456) == 0.7


def test_learning_rate_of_the_paper():
    schedule = lgnn.piecewise_schedule(0.1, 0.2, epochs=(40, 70, 90), steps_per_epoch=390)
    for epoch, power in [(0, 0), (39, 0), (40, 1), (69, 1), (70, 2), (89, 2), (90, 3), (99, 3)]:
        for step in (epoch * 390, epoch * 390 + 389):
            np.testing.assert_allclose(schedule(step), 0.1 * 0.2**power, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lgnn.constant_sigma(-1), "sigma"),
        (lambda: lgnn.decreasing_sigma(float("nan"), steps_per_epoch=1, epochs=1), "sigma"),
        (lambda: lgnn.annealed_sigma(0, 0.5, steps=1), "start"),
        (lambda: lgnn.annealed_sigma(float("inf"), 0.5, steps=1), "start"),
        (lambda: lgnn.annealed_sigma(1.0, 0.0, steps=1), "end must be positive"),
        (lambda: lgnn.annealed_sigma(1.0, 2.0, steps=1), "end must be at most start, got 2.0"),
        (lambda: lgnn.annealed_sigma(1.0, 0.5, steps=0), "steps"),
        (lambda: lgnn.decreasing_sigma(steps_per_epoch=0, epochs=1), "steps_per_epoch"),
        (lambda: lgnn.decreasing_sigma(steps_per_epoch=1, epochs=0), "epochs"),
        (lambda: lgnn.piecewise_schedule(0.0, 0.2, (1,), 1), "init_value"),
        (lambda: lgnn.piecewise_schedule(0.1, -1, (1,), 1), "factor"),
        (lambda: lgnn.piecewise_schedule(0.1, 0.2, (3, 2), 1), "increasing"),
        (lambda: lgnn.piecewise_schedule(0.1, 0.2, (0, 2), 1), "at least 1"),
        (lambda: lgnn.piecewise_schedule(0.1, 0.2, (1,), 0), "steps_per_epoch"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
