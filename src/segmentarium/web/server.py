"""The page and the HTTP API on an address of this machine, until someone ends it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from segmentarium.web.limits import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    models: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "torch",
    task: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serves until Ctrl-C, and says on standard output where.

    models       name on the page -> name or file of weights; the first one is the default
    host, port   to listen on; port 0: any that is free
    engine       "torch", "compile", "onnxruntime", "openvino" or "auto"
    task         of mask classifiers, where a request does not say: "semantic", "instance" or "panoptic"; None: as each model says
    limits       sizes, times and numbers that the server takes on; None: those of `Limits()`

    Raises ImportError where the extra "web" is not installed, OSError where the address cannot be had.
    """
    try:
        import uvicorn

        from segmentarium.web.app import create_app
    except ImportError as error:
        raise ImportError(f"this needs {error.name}: pip install 'segmentarium[web]'") from None
    from segmentarium.web.work import shared

    limits = limits or Limits()
    predictors = {name: shared(source, task=task, engine=engine) for name, source in models.items()}
    settings = uvicorn.Config(
        create_app(predictors, limits, hosts=allowed_hosts(host)),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        limit_concurrency=max(200, 4 * limits.places),  # connections, those that wait for their 503 included
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
    )
    try:
        socket = settings.bind_socket()
    except SystemExit:  # uvicorn has said why
        raise OSError(f"cannot listen on {host} port {port}") from None
    port = socket.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/  the page\nhttp://{shown}:{port}/docs  the API\nCtrl-C ends it", flush=True)
    if host not in LOOPBACK:
        print("anyone who can reach this address can use it: there are no accounts", file=sys.stderr)
    uvicorn.Server(settings).run(sockets=[socket])


def allowed_hosts(host: str) -> tuple[str, ...] | None:
    """The names under which a server on `host` answers; None: any, where others may reach it."""
    return LOOPBACK if host in LOOPBACK else None
