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

    The process ends within `limits.end_seconds` of SIGTERM or Ctrl-C, whatever is being computed then.

    Raises ImportError where the extra "web" is not installed, OSError where the address cannot be had.
    """
    try:
        import uvicorn

        from segmentarium.web.app import create_app
        from segmentarium.web.connections import EndingServer, protocol_of
    except ImportError as error:
        raise ImportError(f"this needs {error.name}: pip install 'segmentarium[web]'") from None
    from segmentarium.web.work import shared

    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; give 0 (any that is free) to 65535")
    limits = limits or Limits()
    predictors = {name: shared(source, task=task, engine=engine) for name, source in models.items()}
    app = create_app(predictors, limits, hosts=allowed_hosts(host))
    settings = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        http=protocol_of(limits),
        ws="none",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, int(limits.end_seconds / 3)),  # for answers that are on their way
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
    server = EndingServer(settings, limits.end_seconds, app.state.decoders.close)
    try:
        server.run(sockets=[socket])
    finally:
        if server.clock is not None and not app.state.workshop.taken:  # nothing is left that would not end
            server.clock.cancel()


def allowed_hosts(host: str) -> tuple[str, ...] | None:
    """The names under which a server on `host` answers; None: any, where others may reach it."""
    return LOOPBACK if host in LOOPBACK else None
