"""What a machine has: memory within its control groups, cores, a GPU."""

from __future__ import annotations

import pytest

from keras_unet import machine
from keras_unet.machine import Machine


def _group(folder, limit, used, names, **stat):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("".join(f"{k} {v}\n" for k, v in stat.items()))


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_V2 = ("memory.max", "memory.current")


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A machine with much memory, whose control groups a test makes up."""
    monkeypatch.setattr(machine, "_available", lambda: 10**12)
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MOUNT", tmp_path / "mount")
    return tmp_path / "mount"


def test_free_memory_without_control_groups(groups):
    assert machine.free_memory() == 10**12


def test_free_memory_of_this_machine():
    assert 10**7 < machine.free_memory() < 10**14


@pytest.mark.parametrize("version", [1, 2])
def test_page_cache_is_free_memory(groups, version):
    """A container of 8 GB that has read 7 GB of images has not used them up."""
    own = {"anon": 6, "inactive_file": 6_500, "active_file": 500}
    if version == 1:
        (groups.parent / "cgroup").write_text("9:name=systemd:/a\n4:cpu,memory:/docker/1f\n0::/\n")
        # the group of a container is mounted where others have the whole tree
        stat = {"inactive_file": 0, **{f"total_{name}": value for name, value in own.items()}}
        _group(groups / "memory", 8_000, 7_900, _V1, **stat)
    else:
        (groups.parent / "cgroup").write_text("0::/\n")
        _group(groups, 8_000, 7_900, _V2, **own)
    assert machine.free_memory() == 8_000 - 7_900 + 7_000


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_on_the_way_counts(groups, version):
    """Slurm limits the job's group; those of the step and of the node say less, or nothing."""
    names, mount = (_V1, groups / "memory") if version == 1 else (_V2, groups)
    line = "4:memory:/slurm/job_7/step_0\n" if version == 1 else "0::/slurm/job_7/step_0\n"
    (groups.parent / "cgroup").write_text(line)
    unlimited = 9223372036854771712 if version == 1 else "max"
    _group(mount / "slurm" / "job_7" / "step_0", unlimited, 3_000, names)
    _group(mount / "slurm" / "job_7", 5_000, 3_000, names)
    _group(mount / "slurm", 90_000, 70_000, names)
    assert machine.free_memory() == 2_000
    (mount / "slurm" / "job_7" / "memory.stat").unlink()
    assert machine.free_memory() == 2_000
    _group(mount / "slurm" / "job_7", 5_000, 6_000, names)
    assert machine.free_memory() == 0


def test_what_there_is_not(monkeypatch):
    """No driver of NVIDIA, no list of processors."""

    def absent(_):
        raise OSError

    monkeypatch.setattr(machine.ctypes, "CDLL", absent)
    assert machine.gpu_memory() is None
    monkeypatch.setattr(machine, "_cpu_info", lambda key: iter(()))
    assert machine.cpu_bfloat16() == [] and machine.cpu_name()


@pytest.mark.parametrize(("result", "found"), [(0, 80 * 10**9), (303, None)])
def test_a_driver_is_asked_for_the_memory_of_its_first_gpu(monkeypatch, result, found):
    class Driver:
        def cuInit(self, flags):
            return result

        def cuDeviceGet(self, device, number):
            device._obj.value = 7 + number
            return 0

        def cuDeviceTotalMem_v2(self, size, device):
            assert device.value == 7
            size._obj.value = 80 * 10**9
            return 0

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Driver())
    assert machine.gpu_memory() == found


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_as_it_is():
    if not machine.gpus():
        pytest.skip("no GPU")
    assert 10**9 < machine.gpu_memory() < 10**13


def test_a_gpu_is_described_with_its_memory():
    found = Machine(cores=2, memory=8e9, bfloat16=True, gpu="H200", gpu_memory=150e9)
    assert str(found) == "H200 with 150.0 GB, 2 cores, 8.0 GB free, bfloat16"
