"""Learning rates against their formulas."""

from __future__ import annotations

import math

import pytest

from keras_unet.training.callbacks import learning_rate


def test_each_schedule_is_its_formula_after_the_warm_up():
    for used in (0.1, 0.5, 0.99, 1.0):
        given = {"used": used, "step": 10**6, "warmup_steps": 0}
        rates = [
            learning_rate(2.0, schedule=s, **given) for s in ("polynomial", "cosine", "constant")
        ]
        expected = [2 * (1 - used) ** 0.9, 1 + math.cos(math.pi * used), 2.0]
        assert rates == pytest.approx(expected, abs=1e-12)


def test_the_warm_up_by_share_and_by_steps():
    rates = [learning_rate(1.0, used=u, step=0, schedule="constant") for u in (0.0, 0.009, 0.5)]
    assert rates == pytest.approx([0.05, 0.5, 1.0])
    rates = [
        learning_rate(1.0, used=0.5, step=n, schedule="constant", warmup_steps=9)
        for n in (0, 4, 9, 100)
    ]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0])
