"""Random bits: the published vectors, the distributions, and what a seed depends on."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_unet.augment.draws import normal, sample_bits, sample_seeds, threefry, uniform

# Random123's known answers for threefry2x32 with 20 rounds: counter, key, result.
VECTORS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
@pytest.mark.parametrize("compiled", [False, True])
def test_known_answers(counter, key, expected, compiled):
    function = tf.function(threefry, jit_compile=True) if compiled else threefry
    words = [tf.constant([value], tf.uint32) for value in (*key, *counter)]
    result = function((words[0], words[1]), (words[2], words[3]))
    assert tuple(int(word[0]) for word in result) == expected


def test_uniform_and_normal_have_their_distributions():
    seeds = sample_seeds(3, 0, np.arange(50))
    first, second = (uniform(word) for word in sample_bits(seeds, 1, 400))
    assert first.numpy().min() >= 0 and first.numpy().max() < 1
    assert stats.kstest(first.numpy().ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal((first, second)).numpy().ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first.numpy().ravel(), second.numpy().ravel())[0, 1]) < 0.03


def test_extreme_bits_give_finite_normals():
    edge = tf.constant([0, 2**32 - 1], tf.uint32)
    assert np.isfinite(normal((uniform(edge), uniform(edge))).numpy()).all()


def test_a_seed_depends_on_seed_epoch_and_index_alone():
    whole = sample_seeds(7, 2, np.arange(10)).numpy()
    assert whole.shape == (10, 2) and whole.dtype == np.int32
    alone = np.concatenate([sample_seeds(7, 2, i).numpy() for i in range(10)])
    np.testing.assert_array_equal(whole, alone)
    tensors = sample_seeds(tf.constant(7, tf.int64), tf.constant(2), tf.range(10, dtype=tf.int64))
    np.testing.assert_array_equal(whole, tensors.numpy())
    each = sample_seeds(7, np.repeat([1, 2], 5), np.arange(10)).numpy()
    np.testing.assert_array_equal(each[5:], whole[5:])
    others = [sample_seeds(8, 2, 0), sample_seeds(7, 3, 0), sample_seeds(7 + 2**32, 2, 0)]
    rows = {tuple(row) for row in whole} | {tuple(o.numpy()[0]) for o in others}
    assert len(rows) == 13
