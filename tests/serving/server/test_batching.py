"""Batches across clients: who may be joined, what is refused, and that nobody spoils another's."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from keras_unet.errors import ConfigError
from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.server.batching import Scheduler, Task
from keras_unet.serving.server.model_files import read_batching
from keras_unet.serving.server.settings import Batching


class Doubling:
    """Stands for a Servable: twice the input; remembers the batches; can be held back."""

    def __init__(self, held=False):
        self.batches = []
        self.go = threading.Event()
        if not held:
            self.go.set()

    def run(self, signature, inputs, outputs, seconds):
        assert self.go.wait(10)
        self.batches.append(inputs[0].shape[0])
        if (inputs[0] < 0).any():
            raise ValueError("negative")
        return [2 * inputs[0] for _ in outputs]


def task(servable, value=1.0, shape=(1, 2, 2, 1), rows=1, seconds=10.0, pixels=4):
    image = np.full(shape, value, np.float32)
    return Task(servable, "s", ("y",), [image], rows, pixels, time.monotonic() + seconds)


def scheduler(**settings):
    return Scheduler(Batching(**{"num_batch_threads": 1, **settings}))


def wait_until(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_what_waits_is_computed_together_and_given_back_in_order():
    servable, queue = Doubling(held=True), scheduler(max_batch_size=4)
    first = queue.submit(task(servable, 0))
    wait_until(lambda: queue.waiting() == 0)  # it is being computed
    later = [queue.submit(task(servable, value)) for value in range(1, 7)]
    servable.go.set()
    results = [future.result(10) for future in [first, *later]]
    assert servable.batches == [1, 4, 2]
    assert [r[0].shape for r in results] == [(1, 2, 2, 1)] * 7
    assert [float(r[0].max()) for r in results] == [0, 2, 4, 6, 8, 10, 12]
    queue.stop()


def test_only_alike_images_are_joined():
    servable, other = Doubling(held=True), Doubling()
    queue = scheduler(max_batch_size=8)
    queue.submit(task(servable))
    wait_until(lambda: queue.waiting() == 0)
    unlike = [
        task(servable),
        task(servable, shape=(1, 3, 2, 1)),
        task(other),
        task(servable, rows=None),
        task(servable),
    ]
    futures = [queue.submit(one) for one in unlike]
    servable.go.set()
    for future in futures:
        future.result(10)
    assert sorted(servable.batches) == [1, 1, 1, 2] and other.batches == [1]
    queue.stop()


def test_large_images_are_not_joined():
    servable, queue = Doubling(held=True), scheduler(max_batch_size=8, max_batch_pixels=100)
    futures = [queue.submit(task(servable, pixels=60)) for _ in range(3)]
    servable.go.set()
    for future in futures:
        future.result(10)
    assert servable.batches == [1, 1, 1]
    queue.stop()


def test_a_request_of_many_images_is_computed_in_parts():
    servable, queue = Doubling(), scheduler(max_batch_size=4)
    image = np.arange(40, dtype=np.float32).reshape(10, 2, 2, 1)
    many = Task(servable, "s", ("y", "z"), [image], 10, 40, time.monotonic() + 10)
    result = queue.submit(many).result(10)
    assert servable.batches == [4, 4, 2]
    for one in result:
        np.testing.assert_array_equal(one, 2 * image)
    large = task(servable, shape=(3, 2, 2, 1), rows=3, pixels=3 << 19)  # 2^19 pixels an image
    assert queue.submit(large).result(10)[0].shape == (3, 2, 2, 1)
    assert servable.batches == [4, 4, 2, 1, 1, 1]
    queue.stop()


def test_parts_are_filled_up_to_the_allowed_sizes_and_fail_together():
    servable, queue = Doubling(), scheduler(max_batch_size=4, allowed_batch_sizes=(2, 4))
    five = task(servable, 3, shape=(5, 2, 2, 1), rows=5)
    assert queue.submit(five).result(10)[0].shape == (5, 2, 2, 1)
    assert servable.batches == [4, 2]
    image = np.ones((5, 2, 2, 1), np.float32)
    image[4] = -1
    bad = Task(servable, "s", ("y",), [image], 5, 20, time.monotonic() + 10)
    with pytest.raises(Refused, match="negative"):
        queue.submit(bad).result(10)
    queue.stop()


def test_one_bad_request_does_not_spoil_the_others():
    servable, queue = Doubling(held=True), scheduler()
    queue.submit(task(servable))
    wait_until(lambda: queue.waiting() == 0)
    good, bad, fine = (queue.submit(task(servable, value)) for value in (1, -1, 3))
    servable.go.set()
    assert float(good.result(10)[0].max()) == 2 and float(fine.result(10)[0].max()) == 6
    with pytest.raises(Refused, match="negative"):
        bad.result(10)
    queue.stop()


def test_a_full_queue_refuses_at_once():
    servable = Doubling(held=True)
    queue = scheduler(max_batch_size=2, max_enqueued_batches=2)
    queue.submit(task(servable))
    wait_until(lambda: queue.waiting() == 0)
    futures = [queue.submit(task(servable)) for _ in range(4)]
    with pytest.raises(Refused, match="queue is full") as caught:
        queue.submit(task(servable))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED and caught.value.http_status == 429
    futures[0].cancel()  # its client has left: there is room again
    queue.submit(task(servable))
    servable.go.set()
    queue.stop()


def test_what_waited_too_long_is_not_computed():
    servable, queue = Doubling(held=True), scheduler()
    queue.submit(task(servable))
    wait_until(lambda: queue.waiting() == 0)
    late = queue.submit(task(servable, seconds=0.01))
    time.sleep(0.03)
    servable.go.set()
    with pytest.raises(Refused) as caught:
        late.result(10)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert servable.batches == [1]
    queue.stop()


def test_a_timeout_waits_for_others():
    servable = Doubling()
    queue = scheduler(max_batch_size=2, batch_timeout_micros=5_000_000)
    first = queue.submit(task(servable, 1))
    time.sleep(0.02)
    second = queue.submit(task(servable, 2))  # the batch is full: nobody waits any longer
    assert float(first.result(2)[0].max()) == 2 and float(second.result(2)[0].max()) == 4
    assert servable.batches == [2]
    queue.stop()


def test_batches_are_filled_up_to_the_allowed_sizes():
    servable = Doubling()
    queue = scheduler(max_batch_size=8, allowed_batch_sizes=(4, 8))
    result = queue.submit(task(servable, 3, shape=(3, 2, 2, 1), rows=3)).result(10)
    assert servable.batches == [4] and result[0].shape == (3, 2, 2, 1)
    queue.stop()


def test_a_stopped_scheduler_refuses():
    servable, queue = Doubling(), scheduler()
    queue.stop()
    with pytest.raises(Refused, match="shutting down") as caught:
        queue.submit(task(servable))
    assert caught.value.code is Code.UNAVAILABLE


def test_the_parameters_file_of_tensorflow_serving_is_read(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 32 }\nbatch_timeout_micros { value: 1000 }\n"
        "num_batch_threads { value: 3 }\nallowed_batch_sizes: 8\nallowed_batch_sizes: 32\n"
        'thread_pool_name { value: "x" }\n'
    )
    found = read_batching(file)
    assert found.max_batch_size == 32 and found.allowed_batch_sizes == (8, 32)
    assert found.batch_timeout_micros == 1000 and found.num_batch_threads == 3
    assert found.max_batch_pixels > 1 << 50  # as TensorFlow Serving: images are counted, not pixels
    assert found.max_enqueued_batches == Batching().max_enqueued_batches
    for text, message in [
        ("max_batch { value: 1 }", "not a batching parameters file"),
        ("max_batch_size { value: 0 }", "greater than or equal to 1"),
        ("allowed_batch_sizes: 3", "must increase and end with"),
        ("pad_variable_length_inputs: true", "would change the masks"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_batching(file)
