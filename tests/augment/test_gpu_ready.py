"""Ready for a GPU without having one: kernels, compilation, devices, nothing on the host."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from keras_unet.augment import PRESETS, Augment, sample_seeds
from keras_unet.augment.image_bank import ImageBank

SEEDS = tf.zeros((2, 2), tf.int32)


def graphs(dtype: str, **options):
    """The traced graphs with every option on, from a batch and from a bank."""
    everything = {**PRESETS["nnunet"], **PRESETS["paper"], "shear": (-5, 5), "shift": 2.0}
    layer = Augment(everything, tile=(16, 16), output=8, **options)
    image = np.zeros((2, 20, 20, 3), dtype)
    label, weight = np.zeros((2, 20, 20), np.int32), np.zeros((2, 20, 20), np.float32)
    bank = ImageBank.from_arrays(list(image), list(label), list(weight))
    trace = layer._compiled[True].get_concrete_function
    batch = (tf.constant(value) for value in (image, label, weight))
    yield trace(*batch, SEEDS, None)
    yield trace(bank, None, None, SEEDS, tf.zeros((2,), tf.int32))


def nodes(graph):
    definition = graph.graph.as_graph_def()
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def has_gpu_kernel(node) -> bool:
    for kernel in kernels.get_registered_kernels_for_op(node.op).kernel:
        if kernel.device_type not in ("GPU", "DEFAULT"):
            continue
        wanted = (c for c in kernel.constraint if c.name in node.attr)
        if all(node.attr[c.name].type in (0, *c.allowed_values.list.type) for c in wanted):
            return True
    return False


def test_the_check_itself_finds_what_has_no_kernel():
    @tf.function
    def resize(image):
        return tf.image.resize(image, (4, 4), method="bicubic")

    graph = resize.get_concrete_function(tf.TensorSpec((1, 8, 8, 1)))
    assert "ResizeBicubic" in {node.op for node in nodes(graph) if not has_gpu_kernel(node)}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint8", {}),
        ("uint16", {"interpolation": "bicubic", "image_dtype": "bfloat16"}),
        ("float32", {"rotate": "right_angles"}),
    ],
)
def test_every_op_has_a_gpu_kernel_and_none_runs_on_the_host(dtype, options):
    for graph in graphs(dtype, **options):
        lacking = {node.op for node in nodes(graph) if not has_gpu_kernel(node)}
        assert not lacking
        names = {node.op for node in nodes(graph)}
        assert not {n for n in names if "PyFunc" in n or "Host" in n or n in ("Print", "Send")}
        # Random numbers come from integer arithmetic, not from a device's own generator.
        assert not {n for n in names if "Random" in n}


def test_two_devices_give_identical_results():
    program = """
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        from keras_unet.augment import Augment, sample_seeds
        image = np.random.default_rng(0).random((3, 33, 35, 2), np.float32)
        label = (image[..., 0] * 9).astype(np.uint8)
        layer = Augment.from_preset("nnunet", elastic_sigma=4.0, noise_p=1.0, gamma_p=1.0)
        found = []
        for device in ("CPU:0", "CPU:1"):
            with tf.device(device):
                out = layer(image, label, seeds=sample_seeds(1, 2, np.arange(3)))
                assert all(value.device.endswith(device) for value in out), out[0].device
                found.append([value.numpy().tobytes() for value in out])
        assert found[0] == found[1]
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_compiled_and_plain_graph_agree():
    image = np.random.default_rng(0).integers(0, 2**16, (2, 18, 19, 2)).astype(np.uint16)
    label = image[..., 0].astype(np.int64)
    seeds = sample_seeds(0, 0, np.arange(2))
    compiled = Augment.from_preset("paper")(image, label, seeds=seeds)
    plain = Augment.from_preset("paper", jit_compile=False)(image, label, seeds=seeds)
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-3, atol=0.5)
    assert np.mean(compiled[1].numpy() == plain[1].numpy()) > 0.999
