"""Embedded server: TensorFlow Serving's protocol in this process."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_unet.serving.protocol import connection
from keras_unet.serving.server import observe, runtime
from keras_unet.serving.server.batching import Scheduler
from keras_unet.serving.server.grpc_api import GrpcApi, Health, Tls, make_server
from keras_unet.serving.server.http import Front, HttpServer, listen
from keras_unet.serving.server.limits import Budget, Token
from keras_unet.serving.server.manager import Manager
from keras_unet.serving.server.model_files import discover, read_config
from keras_unet.serving.server.observe import Metrics
from keras_unet.serving.server.predictor import Predictor, warm_up
from keras_unet.serving.server.rest_api import RestApi
from keras_unet.serving.server.runtime import in_background
from keras_unet.serving.server.servable import Servable
from keras_unet.serving.server.settings import ServerSettings


class EmbeddedServer:
    """Serves a folder of published models; `run` in the foreground, or `with` in a thread.

    >>> with EmbeddedServer(ServerSettings(folder="saved_models")) as server:
    ...     Client(f"grpc://{server.grpc_address}").predict("unet", image)

    Raises:
        ConfigError: the folder or the config file cannot be used, or TLS files not read.
        OSError: an address is taken.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.grpc_address: str | None = None
        self.rest_address: str | None = None
        limits = settings.limits
        self.metrics = Metrics()
        self.budget = Budget(limits)
        self._models()  # a wrong folder or file ends it here
        self._tls = _read_tls(settings)
        self.scheduler = Scheduler(settings.batching, self.metrics.batch)
        self.manager = Manager(
            self._models,
            self._load_beside,
            event=self._event,
            poll_seconds=settings.poll_seconds,
            retries=settings.load_retries,
            retry_seconds=settings.load_retry_seconds,
        )
        self.predictor = Predictor(self.manager, self.scheduler, limits)
        self.metrics.gauge("keras_unet_queue", "Requests that wait.", self.scheduler.waiting)
        self.metrics.gauge("keras_unet_held_bytes", "Requests held.", lambda: self.budget.held)
        self._health: Health | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._own_process = False

    def run(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Serves until SIGINT or SIGTERM, then drains; `say` gets one line: where it is."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file
        self._own_process = True
        asyncio.run(self._serve(signals=True, ready=lambda: say(self._ready())))

    def __enter__(self) -> EmbeddedServer:
        ready = threading.Event()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                asyncio.run(self._serve(ready=ready.set))
            except BaseException as error:
                failure.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=work, name="server", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            raise failure[0]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the server that `with` started: no new requests, the present ones end."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    async def _serve(
        self, *, signals: bool = False, ready: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if signals:
            for one in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(one, self._stop.set)
        loading = asyncio.ensure_future(asyncio.to_thread(self.manager.start))
        stopping = asyncio.ensure_future(self._stop.wait())
        http = grpc_server = None
        tasks: list[asyncio.Task[Any]] = []
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                loading.result()
                grpc_server = await self._start_grpc()
                http = self._start_http(tasks)
                self._log_ready()
                ready()
            waiting = {stopping, *tasks}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # the HTTP server ended by itself: why?
        finally:
            observe.log_event("stopping")
            if http is not None:
                http.should_exit = True
            seconds = self.settings.drain_seconds
            if self._health is not None:
                await self._health.stop()
            if grpc_server is not None:
                await grpc_server.stop(seconds)
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self.manager.stop, seconds)
            self.scheduler.stop()
            self.predictor.close()
            stopping.cancel()

    async def _start_grpc(self) -> Any:
        if self.settings.grpc_port is None:
            return None
        host = self.settings.host
        api = GrpcApi(
            self.predictor,
            self.budget,
            self._record,
            self.settings.folder,
            prefer_tensor_content=self.settings.prefer_tensor_content,
        )
        self._health = Health(self.manager.names)
        await self._health.start()
        server, port = make_server(
            api,
            self._health,
            connection.join_address(host, self.settings.grpc_port),
            limits=self.settings.limits,
            tls=self._tls,
            token=self._token(),
        )
        await server.start()
        self.grpc_address = connection.join_address(host, port)
        return server

    def _start_http(self, tasks: list[asyncio.Task[Any]]) -> Any:
        settings = self.settings
        if settings.rest_port is None:
            return None
        api = RestApi(
            self.predictor,
            self.budget,
            self._record,
            self.metrics.page,
            slow_seconds=settings.limits.slow_seconds,
            token=self._token(),
            cors=settings.cors,
        )
        server = HttpServer(Front(api.app(), settings.hosts), settings)
        socket = listen(settings.host, settings.rest_port)
        socket.listen(2048)
        tasks.append(asyncio.ensure_future(server.serve([socket])))
        self.rest_address = connection.join_address(settings.host, socket.getsockname()[1])
        return server

    def _models(self) -> Any:
        if self.settings.model_config_file is not None:
            return read_config(self.settings.model_config_file)
        return discover(self.settings.folder)

    def _load_beside(self, model: str, folder: Path) -> Servable:
        if self.manager.names():  # others are served meanwhile
            return in_background(lambda: self._load(folder))
        return self._load(folder)

    def _load(self, folder: Path) -> Servable:
        settings = self.settings
        servable = Servable(
            folder,
            intra_op_threads=settings.intra_op_threads,
            inter_op_threads=settings.inter_op_threads,
        )
        try:
            limits = settings.limits
            servable.warm_up(lambda r: warm_up(servable, r, limits.request_bytes, 600.0))
        except BaseException:
            servable.close()
            raise
        if self._own_process:
            runtime.freeze_heap()  # what was left of the version before the last goes, too
        return servable

    def _token(self) -> Token | None:
        return Token(self.settings.token) if self.settings.token else None

    def _event(self, name: str, level: str = "info", **fields: Any) -> None:
        if "model" in fields:
            self.metrics.event(name, fields["model"], fields["version"])
        observe.log_event(name, level, **fields)

    def _record(self, model: str, api: str, method: str, status: str, seconds: float) -> None:
        if model not in self.manager.names():
            model = observe.UNKNOWN
        self.metrics.request(model, api, method, status, seconds)
        if self.settings.log_requests:
            observe.log_event(
                "request",
                model=model,
                api=api,
                method=method,
                status=status,
                seconds=round(seconds, 4),
            )

    def _ready(self) -> str:
        """For people: where it is, and what is there."""
        names, folder, tls = self.manager.names(), self.settings.folder, self._tls is not None
        scheme, places = "s" if tls else "", []
        if self.rest_address is not None:
            places.append(f"http{scheme}://{_reachable(self.rest_address)}/")
        if self.grpc_address is not None:
            places.append(f"grpc{scheme}://{_reachable(self.grpc_address)}")
        text = f"Serving {', '.join(names) or 'no model yet'} at {' and '.join(places)}"
        if names:
            return text
        for model in self._models():
            for number, _, _, error in self.manager.status(model.name)[:1]:
                text += f"; {model.name}/{number} does not load: {' '.join(error.split())}"
        if not self._models():
            text += (
                f"; none is in {folder}: keras-unet export RUN {folder}/NAME publishes one, which "
            )
            text += "is then served"
        return text

    def _log_ready(self) -> None:
        observe.log_event(
            "serving",
            grpc=self.grpc_address,
            rest=self.rest_address,
            tls=self._tls is not None,
            token=self.settings.token is not None,
            models=self.manager.names(),
        )
        if not self.settings.loopback and not (self._tls and self.settings.token):
            observe.log_event(
                "open_to_the_network",
                "warning",
                host=self.settings.host,
                hint="others can connect: use TLS and a token, or a proxy that has them",
            )


def _reachable(address: str) -> str:
    """An address that a client on this machine can use, where the server listens on all."""
    return address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")


def _read_tls(settings: ServerSettings) -> Tls | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    certificate, key = connection.identity(settings.tls_certificate, settings.tls_key)
    asked = settings.tls_client_authority
    return Tls(certificate, key, None if asked is None else connection.authority(asked))
