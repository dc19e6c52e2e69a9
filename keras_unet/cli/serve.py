"""`keras-unet serve`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from keras_unet.console import TERMINAL


def serve(
    folder: Annotated[
        str, typer.Argument(help="saved_models/, or one model's folder in it; gs://… is fetched.")
    ],
    grpc_port: Annotated[int, typer.Option(help="0: a free one; -1: no gRPC.")] = 8500,
    rest_port: Annotated[int, typer.Option(help="0: a free one; -1: no REST.")] = 8501,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    model_config_file: Annotated[
        Path | None, typer.Option(help="TensorFlow Serving's model config; else every model.")
    ] = None,
    batching_parameters_file: Annotated[
        Path | None, typer.Option(help="TensorFlow Serving's batching parameters.")
    ] = None,
    max_batch_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels of a batch of several clients; GPU: 4194304.")
    ] = 1 << 17,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM, for gRPC and REST.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM, its private key.")] = None,
    tls_client_authority: Annotated[
        Path | None,
        typer.Option(help="PEM of who signs clients' certificates; others cannot connect."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token that clients must send.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name in clients' URLs, beside this machine's; * any. May be repeated."),
    ] = None,
    cors: Annotated[
        bool,
        typer.Option(
            "--rest-api-enable-cors-support",
            "--rest_api_enable_cors_support",
            help="Pages of other origins may read answers, as TensorFlow Serving's option.",
        ),
    ] = False,
    poll_seconds: Annotated[float, typer.Option(help="How often to look for versions.")] = 1.0,
    max_request_mb: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = 64,
    max_held_mb: Annotated[int, typer.Option(min=1, help="MiB of all requests at once.")] = 512,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of one request.")] = 1 << 26,
    max_object_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels of one image whose objects are found.")
    ] = 1 << 24,
    max_images: Annotated[int, typer.Option(min=1, help="Images of one request.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds for one request, queue and all.")] = 60.0,
    threads: Annotated[int, typer.Option(min=0, help="Cores TensorFlow uses; 0: all.")] = 0,
    prefer_tensor_content: Annotated[
        bool, typer.Option("--prefer-tensor-content", help="Numbers as tensor_content over gRPC.")
    ] = False,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="A line for each request.")
    ] = False,
) -> None:
    """Serve published models over gRPC and REST, as TensorFlow Serving does; a page is at /."""
    from keras_unet.disk import read_text
    from keras_unet.errors import ConfigError
    from keras_unet.remote_path import RemotePath, as_path
    from keras_unet.settings import validated

    try:
        from keras_unet.serving.server.embedded import EmbeddedServer
        from keras_unet.serving.server.limits import MIB
        from keras_unet.serving.server.model_files import Mirror, read_batching
        from keras_unet.serving.server.observe import log_to_stderr
        from keras_unet.serving.server.settings import ServerSettings
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'unet-keras[serve]'") from error

    place = as_path(folder)
    if isinstance(place, RemotePath) and model_config_file is not None:
        raise ConfigError(
            f"{folder}: with a model config file, its base_path says where models are"
        )
    given = {
        "folder": Path() if isinstance(place, RemotePath) else place,
        "model_config_file": model_config_file,
        "host": host,
        "grpc_port": None if grpc_port < 0 else grpc_port,
        "rest_port": None if rest_port < 0 else rest_port,
        "poll_seconds": poll_seconds,
        "intra_op_threads": threads,
        "prefer_tensor_content": prefer_tensor_content,
        "limits": {
            "request_bytes": max_request_mb * MIB,
            "held_bytes": max_held_mb * MIB,
            "pixels": max_pixels,
            "object_pixels": max_object_pixels,
            "rows": max_images,
            "seconds": timeout,
        },
        "batching": read_batching(batching_parameters_file)
        if batching_parameters_file
        else {"max_batch_pixels": max_batch_pixels},
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_authority": tls_client_authority,
        "token": read_text(token_file).strip() if token_file else None,
        "log_requests": log_requests,
        "cors": cors,
        "allowed_hosts": allow_host or (),
    }
    settings = validated(ServerSettings, given)

    log_to_stderr()
    if isinstance(place, RemotePath):
        settings = settings.model_copy(update={"folder": Mirror(place, poll_seconds).start()})
    _say(f"Loading the models of {folder} ...")
    EmbeddedServer(settings).run(_say)


def _say(line: str) -> None:
    """For people, if any read it: a server goes on without them, and without room for its log."""
    if not TERMINAL.quiet:
        with contextlib.suppress(OSError, UnicodeError):
            typer.echo(line)
            sys.stdout.flush()
