"""The real `tensorflow_model_server`, where it is installed: the command line that stands for ours.

It always listens on every address, has no token, and reads models from one config file; what it
cannot do is left to the embedded server.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from keras_unet.disk import read_text
from keras_unet.serving.server.model_files import ServedModel, discover, read_config
from keras_unet.serving.server.settings import Batching, Limits, ServerSettings

NAME = "tensorflow_model_server"


def find() -> str | None:
    """Its path, if it is on PATH."""
    return shutil.which(NAME)


def cannot(settings: ServerSettings) -> str | None:
    """What of these settings the binary would not do; None if it does all of it."""
    if settings.host not in ("0.0.0.0", "::"):
        return f"it listens on every address, not only on {settings.host}"
    if settings.token is not None:
        return "it knows no bearer token"
    if settings.grpc_port in (None, 0) or settings.rest_port == 0:
        return "it needs ports that are known"
    if settings.tls_certificate is not None and settings.rest_port is not None:
        return "its REST port has no TLS"
    if settings.limits.model_copy(update={"seconds": Limits().seconds}) != Limits():
        return "it has no limits but the time for a request"
    if settings.allowed_hosts:
        return "it does not ask whose name a request bears"
    if settings.log_requests:
        return "it does not log requests"
    if settings.model_config_file is not None and _relative(settings.model_config_file):
        return f"it takes absolute paths only, and {settings.model_config_file} has others"
    return None


def command(binary: str, settings: ServerSettings, work: Path, *, batching: bool) -> list[str]:
    """Its arguments; files that it reads are written to `work`.

    Args:
        batching: write the batching parameters (TensorFlow Serving does not batch otherwise).
    """
    config, seconds = settings.model_config_file, max(1, round(settings.poll_seconds))
    read_again = [f"--model_config_file_poll_wait_seconds={seconds}"]
    if config is None:
        config, read_again = work / "models.config", []
        config.write_text(_config(discover(settings.folder)), encoding="utf-8")
    monitoring = work / "monitoring.config"
    path = "/monitoring/prometheus/metrics"
    monitoring.write_text(
        f'prometheus_config {{ enable: true, path: "{path}" }}\n', encoding="utf-8"
    )
    arguments = [
        binary,
        f"--port={settings.grpc_port}",
        f"--rest_api_port={settings.rest_port or 0}",
        f"--rest_api_timeout_in_ms={int(settings.limits.seconds * 1000)}",
        f"--model_config_file={config.resolve()}",
        *read_again,
        f"--monitoring_config_file={monitoring}",
        f"--file_system_poll_wait_seconds={seconds}",
        f"--max_num_load_retries={settings.load_retries}",
        f"--load_retry_interval_micros={int(settings.load_retry_seconds * 1e6)}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_grpc_healthcheck_service=true",
    ]
    if settings.cors:
        arguments.append("--rest_api_enable_cors_support=true")
    if settings.prefer_tensor_content:
        arguments.append("--enable_serialization_as_tensor_content=true")
    if settings.intra_op_threads:
        arguments.append(f"--tensorflow_intra_op_parallelism={settings.intra_op_threads}")
    if settings.inter_op_threads:
        arguments.append(f"--tensorflow_inter_op_parallelism={settings.inter_op_threads}")
    if batching:
        file = work / "batching.config"
        file.write_text(_batching(settings.batching), encoding="utf-8")
        arguments += ["--enable_batching=true", f"--batching_parameters_file={file}"]
    if settings.tls_certificate and settings.tls_key:
        file = work / "ssl.config"
        file.touch(mode=0o600)
        file.write_text(_ssl(settings), encoding="utf-8")
        arguments.append(f"--ssl_config_file={file}")
    return arguments


def replace_process(arguments: list[str]) -> None:
    """Becomes the binary: signals and the exit code are its own."""
    os.execv(arguments[0], arguments)


def _relative(config_file: Path) -> bool:
    """Whether a model config has paths that start at the file's folder, as only we read them."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    read_config(config_file, remote=True)  # says what is wrong with it
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(read_text(config_file), config)
    paths = [one.base_path for one in config.model_config_list.config]
    return not all(path.startswith("/") or "://" in path for path in paths)


def _config(models: list[ServedModel]) -> str:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for model in models:
        one = config.model_config_list.config.add(name=model.name, model_platform="tensorflow")
        one.base_path = str(model.base_path.resolve())
    return text_format.MessageToString(config)


def _batching(settings: Batching) -> str:
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    lines = [f"{name} {{ value: {getattr(settings, name)} }}" for name in names]
    lines += [f"allowed_batch_sizes: {size}" for size in settings.allowed_batch_sizes]
    return "\n".join(lines) + "\n"


def _ssl(settings: ServerSettings) -> str:
    """An SSLConfig text proto, whose Python code is not packaged; PEM needs no other escape."""
    texts = {
        "server_key": settings.tls_key,
        "server_cert": settings.tls_certificate,
        "custom_ca": settings.tls_client_authority,
    }
    found = "".join(
        f'{name}: "{file.read_text(encoding="ascii").encode("unicode_escape").decode()}"\n'
        for name, file in texts.items()
        if file is not None
    )
    return found + ("client_verify: true\n" if settings.tls_client_authority else "")
