"""The files for the real TensorFlow Serving: schema, paths, flags, probes; none of them is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
import toy_models
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from keras_unet.serving.folders import write_configs
from keras_unet.serving.server.model_files import read_batching

ROOT = Path(__file__).parents[3]
HERE = ROOT / "docs" / "tf-serving"
CPU, GPU = HERE / "kubernetes", HERE / "kubernetes-gpu"
MANIFESTS = sorted(path for path in CPU.glob("*.yaml") if path.name != "kustomization.yaml")
# what tensorflow_serving/model_servers/main.cc of 2025 takes
FLAGS = set(
    re.findall(
        r"\w+",
        """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models
    batching_parameters_file enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads
    num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
    use_alts_credentials ssl_config_file platform_config_file per_process_gpu_memory_fraction
    saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
    num_request_iterations_for_warmup version monitoring_config_file
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
    thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content""",
    )
)


def documents(path):
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def resources():
    found = {}
    for path in MANIFESTS:
        for one in documents(path):
            found[one["kind"]] = one
    return found


def compose():
    (found,) = documents(HERE / "compose.yaml")
    return found


def container(deployment):
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    return one


def docker_runs():
    """The arguments of each `docker run` in the page."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("docker run")]


def arguments():
    """{where: arguments of the server} of every file."""
    found = {f"compose {name}": one["command"] for name, one in compose()["services"].items()}
    found["deployment"] = container(resources()["Deployment"])["args"]
    patch = yaml.safe_load(documents(GPU / "kustomization.yaml")[0]["patches"][1]["patch"])
    assert {one["path"] for one in patch} == {"/spec/template/spec/containers/0/args/-"}
    found["gpu"] = found["deployment"] + [one["value"] for one in patch]
    for n, words in enumerate(docker_runs()):
        image = next(i for i, word in enumerate(words) if word.startswith("tensorflow/serving:"))
        found[f"docker run {n}"] = words[image + 1 :]
    return found


@pytest.mark.parametrize("where", arguments())
def test_flags_are_those_of_the_server_and_files_are_where_they_say(where, tmp_path):
    (tmp_path / "unet" / "1").mkdir(parents=True)
    write_configs(tmp_path)
    given = dict(one.removeprefix("--").split("=", 1) for one in arguments()[where])
    assert set(given) <= FLAGS, set(given) - FLAGS
    # a file without the switch is refused by the server
    assert ("batching_parameters_file" in given) == (given.get("enable_batching") == "true")
    for name, path in given.items():
        if name.endswith("_file"):
            folder = {"/models": tmp_path, "/etc/serving": GPU}[str(Path(path).parent)]
            assert (folder / Path(path).name).is_file(), path
    models = (tmp_path / "models.config").read_text()
    assert 'base_path: "/models/unet"' in models and "model_config_file" in given


def test_the_page_shows_the_command_for_cpu_and_gpu():
    images = [word for run in docker_runs() for word in run if word.startswith("tensorflow/")]
    assert [image.endswith("-gpu") for image in images] == [False, True]
    for run in docker_runs():
        published = [run[i + 1] for i, word in enumerate(run) if word == "-p"]
        assert published == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]  # it has no password
        assert any("dst=/models,readonly" in word for word in run)


def test_all_files_name_the_same_image():
    tags = set(re.findall(r"tensorflow/serving:([\d.]+)", (ROOT / "docs/serving.md").read_text()))
    tags |= set(re.findall(r"TF_SERVING_VERSION:-([\d.]+)", (HERE / "compose.yaml").read_text()))
    for folder in (CPU, GPU):
        (image,) = documents(folder / "kustomization.yaml")[0]["images"]
        assert image["name"] == container(resources()["Deployment"])["image"]
        tags.add(image["newTag"].removesuffix("-gpu"))
    assert len(tags) == 1, tags


def monitoring(text):
    """MonitoringConfig of monitoring_config.proto, whose Python code is not packaged."""
    file = descriptor_pb2.FileDescriptorProto(name="monitoring.proto", package="test")
    inner = file.message_type.add(name="PrometheusConfig")
    inner.field.add(name="enable", number=1, type=8, label=1)
    inner.field.add(name="path", number=2, type=9, label=1)
    outer = file.message_type.add(name="MonitoringConfig")
    outer.field.add(
        name="prometheus_config", number=1, type=11, label=1, type_name=".test.PrometheusConfig"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.MonitoringConfig"))
    return text_format.Parse(text, kind())


def test_configuration_files_parse_as_the_servers_protocol():
    assert read_batching(GPU / "batching.config").max_batch_size == 16
    assert read_batching(ROOT / "saved_models/batching.config").max_batch_size == 8
    found = monitoring((ROOT / "saved_models/monitoring.config").read_text())
    annotations = resources()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert found.prometheus_config.enable
    assert found.prometheus_config.path == annotations["prometheus.io/path"]


def test_names_ports_and_volumes_of_the_manifests_fit_together():
    found = resources()
    assert set(found) == {
        "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "Service"
    }  # fmt: skip
    pod = found["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert found[kind]["spec"][key]["matchLabels"] == labels
    serving = container(found["Deployment"])
    ports = {one["name"]: one["containerPort"] for one in serving["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}  # those of the image's entry point
    assert {one["targetPort"] for one in found["Service"]["spec"]["ports"]} == set(ports)
    rules = found["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == set(ports)
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    assert {one["name"] for one in serving["volumeMounts"]} == set(volumes)
    claim = volumes["saved-models"]["persistentVolumeClaim"]
    assert claim == {
        "claimName": found["PersistentVolumeClaim"]["metadata"]["name"],
        "readOnly": True,
    }
    for probe in ("startupProbe", "readinessProbe"):
        assert serving[probe]["httpGet"]["port"] == "rest"
    assert serving["livenessProbe"]["grpc"]["port"] == ports["grpc"]
    assert "--enable_grpc_healthcheck_service=true" in serving["args"]
    timeout = next(one for one in serving["args"] if "timeout" in one).partition("=")[2]
    # the server ignores SIGTERM, so the grace period is the time that requests have to end
    assert pod["spec"]["terminationGracePeriodSeconds"] > int(timeout) / 1000
    for folder in (CPU, GPU):
        (kustomization,) = documents(folder / "kustomization.yaml")
        for name in kustomization["resources"]:
            assert (folder / name).exists()
    assert set(kustomization["configMapGenerator"][0]["files"]) == {"batching.config"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    toy_models.write(root / "unet" / "1")
    with toy_models.serving(root) as server:  # stands for TensorFlow Serving
        yield server


def test_the_readiness_probe_knows_whether_a_model_is_available(server):
    probe = container(resources()["Deployment"])["readinessProbe"]["httpGet"]["path"]
    for path, status in ((probe, 200), (probe.replace("unet", "other"), 404)):
        response = requests.get(f"http://{server.rest_address}{path}", timeout=20)
        assert response.status_code == status


@pytest.mark.parametrize(("model", "healthy"), [("unet", True), ("other", False)])
def test_composes_health_check_knows_whether_a_model_is_available(server, model, healthy):
    for service in compose()["services"].values():
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        text = command[-1].replace("${MODEL:?which model}", model)
        assert "$" not in text
        port = server.rest_address.rpartition(":")[2]
        command[-1] = text.replace("/127.0.0.1/8501", f"/127.0.0.1/{port}")
        assert (subprocess.run(command, timeout=30, check=False).returncode == 0) is healthy


def test_compose_mounts_what_it_names():
    found = compose()
    for name, service in found["services"].items():
        (volume,) = service["volumes"]
        default = re.fullmatch(r"\$\{SAVED_MODELS:-(.+)\}", volume["source"])[1]
        assert (HERE / default).resolve() == ROOT / "saved_models"
        assert volume["target"] == "/models" and volume["read_only"] is True
        assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
        assert ("gpu" in name) == service["image"].endswith("-gpu")
    assert (HERE / found["configs"]["batching-gpu"]["file"]).is_file()


def schemas():
    """The interpreter of an environment with the schemas: `make oracles`."""
    folder = Path(os.environ.get("KERAS_UNET_MANIFESTS", ROOT / ".venv-manifests"))
    python = folder / "bin" / "python"
    if not python.exists():
        pytest.skip("no schemas of Kubernetes and Compose: make oracles")
    return python


def check(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_kubernetes_accepts_the_manifests():
    for path in MANIFESTS:
        said = check(schemas(), "-m", "kubernetes_validate", "--strict", path)
        assert said.count("passed") == len(documents(path))


def test_compose_accepts_its_file():
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    check(schemas(), *command, HERE / "compose.yaml")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", [CPU, GPU], ids=["cpu", "gpu"])
def test_kustomize_puts_the_manifests_together(folder, tmp_path):
    built = list(yaml.safe_load_all(check("kubectl", "kustomize", folder)))
    (deployment,) = [one for one in built if one["kind"] == "Deployment"]
    serving = container(deployment)
    assert serving["image"].endswith("-gpu") == (folder is GPU)
    assert serving["args"] == arguments()["gpu" if folder is GPU else "deployment"]
    mounted = {one["mountPath"]: one["name"] for one in serving["volumeMounts"]}
    if folder is GPU:
        assert serving["resources"]["limits"]["nvidia.com/gpu"] == 1
        volumes = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["volumes"]}
        name = volumes[mounted["/etc/serving"]]["configMap"]["name"]
        (config,) = [one for one in built if one["kind"] == "ConfigMap"]
        assert config["metadata"]["name"] == name and "batching.config" in config["data"]
    (tmp_path / "built.json").write_text("\n---\n".join(map(json.dumps, built)))
    if (ROOT / ".venv-manifests").exists():
        check(schemas(), "-m", "kubernetes_validate", "--strict", tmp_path / "built.json")
