"""Settings of the embedded server: addresses, limits, batching, encryption."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, model_validator

from keras_unet.serving.protocol.connection import is_loopback
from keras_unet.serving.server.limits import Limits
from keras_unet.settings import Frozen

_NAME = re.compile(r"[\w.-]+")


class Batching(Frozen):
    """TensorFlow Serving's batching parameters, with defaults for a CPU.

    A batch is made of what waits while the last one is computed, so an idle server adds no
    delay; `batch_timeout_micros` > 0 waits for more.
    """

    max_batch_size: int = Field(16, ge=1)
    batch_timeout_micros: int = Field(0, ge=0)
    max_enqueued_batches: int = Field(8, ge=1)
    num_batch_threads: int = Field(
        2, ge=1, description="Batches at once: one is computed while the other comes and goes."
    )
    allowed_batch_sizes: tuple[int, ...] = ()
    max_batch_pixels: int = Field(
        1 << 17, ge=1, description="Of a batch; a core's caches hold no more, a GPU wants 2^22."
    )

    @model_validator(mode="after")
    def _sizes(self) -> Batching:
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise ValueError(
                f"allowed_batch_sizes {list(sizes)} must increase and end with max_batch_size "
                f"{self.max_batch_size}"
            )
        return self


class ServerSettings(Frozen):
    """One embedded server. Port 0 takes a free one; None leaves that protocol out."""

    folder: Path
    model_config_file: Path | None = None
    host: str = "127.0.0.1"
    grpc_port: int | None = Field(8500, ge=0, le=65535)
    rest_port: int | None = Field(8501, ge=0, le=65535)
    poll_seconds: float = Field(1.0, gt=0, description="How often new versions are looked for.")
    load_retries: int = Field(5, ge=0, description="How often a failed version is tried again.")
    load_retry_seconds: float = Field(60.0, ge=0)
    drain_seconds: float = Field(30.0, ge=0, description="Time for requests to end at shutdown.")
    intra_op_threads: int = Field(0, ge=0, description="TensorFlow's; 0 is one a core.")
    inter_op_threads: int = Field(0, ge=0)
    prefer_tensor_content: bool = False
    limits: Limits = Limits()
    batching: Batching = Batching()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_authority: Path | None = Field(
        None, description="Who signs clients' certificates; without one a client is refused."
    )
    token: str | None = Field(None, min_length=8, repr=False)
    log_requests: bool = False
    cors: bool = Field(False, description="Pages of other origins may read REST answers.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names that REST requests may bear; on loopback, only these and its own."
    )

    @model_validator(mode="after")
    def _fits(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both a certificate and its key; found one of them")
        if self.tls_client_authority is not None and self.tls_certificate is None:
            raise ValueError("client certificates need TLS: a certificate and its key")
        for host in self.allowed_hosts:
            if host != "*" and not _NAME.fullmatch(host):
                raise ValueError(
                    f"found {host!r} among the names that requests may bear (--allow-host); "
                    "expected a name without scheme and port, such as cells.example.org, or *"
                )
        if self.grpc_port is None and self.rest_port is None:
            raise ValueError("nothing to serve: both gRPC and REST are off")
        if self.grpc_port and self.grpc_port == self.rest_port:
            raise ValueError(f"gRPC and REST cannot share port {self.grpc_port}")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ValueError("a token is one line of printable ASCII; others no client can send")
        return self

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Names that REST requests may bear beside this machine's own; None: any."""
        if "*" in self.allowed_hosts or not (self.loopback or self.allowed_hosts):
            return None
        return self.allowed_hosts

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)
