"""The HTTP API and the page, as an ASGI application.

    POST /v1/portrait  file, background, model, views  -> PNG
    POST /v1/segment   file, model, format             -> PNG of class indices, or JSON
    GET  /v1/models, /healthz, /openapi.json, /docs, /

Errors are `{"detail": "what was wrong and what to do"}` with the fitting status.
"""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.datastructures import FormData
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmentarium.inference.result import Result
from segmentarium.matting import Portrait
from segmentarium.matting.finder import no_foreground
from segmentarium.version import __version__
from segmentarium.web import schema
from segmentarium.web.assets import assets
from segmentarium.web.limits import Limits, Refused
from segmentarium.web.uploads import background_of, decode, file_of, read_form, text_of
from segmentarium.web.work import SharedPredictor, Workshop

log = logging.getLogger("segmentarium.web")

Work = Callable[[np.ndarray], Response]

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self' blob: data:; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Adds the headers that keep the page to itself, and refuses requests made under another host's name.

    hosts  allowed in the Host header, None: any.  A server on the loopback answers to the loopback's names only, or any
           website could rebind its own name to 127.0.0.1 and read the answers.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {key for key, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        host = next((value for key, value in scope["headers"] if key == b"host"), b"").decode("latin-1")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            answer = JSONResponse({"detail": f"this server does not answer to the name {host[:80]!r}"}, 421)
            return await answer(scope, receive, sealed)
        return await self._app(scope, receive, sealed)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def create_app(
    models: Mapping[str, SharedPredictor], limits: Limits | None = None, *, hosts: Sequence[str] | None = None
) -> FastAPI:
    """The application.

    models  name in requests -> predictor; the first one is the default
    hosts   names under which it answers, None: any
    """
    if not models:
        raise ValueError("models is empty; give at least one")
    limits = limits or Limits()
    workshop = Workshop(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workshop.close()

    app = FastAPI(
        title="Segmentarium",
        version=__version__,
        description="Portraits cut out and pictures segmented on this machine. Nothing is kept, nothing is sent on.",
        lifespan=lifespan,
        docs_url=None,  # its page would be fetched from another host; ours is among the assets
        redoc_url=None,
    )
    app.state.workshop, app.state.limits = workshop, limits
    app.add_middleware(Guard, hosts=tuple(hosts) if hosts is not None else None)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else None
        # what is left of an upload is not read: the connection cannot be used again
        if error.status in (408, 413, 503):
            headers = {**(headers or {}), "connection": "close"}
        return JSONResponse({"detail": error.message}, error.status, headers)

    def chosen(name: str, *, portrait: bool = False) -> SharedPredictor:
        if name not in models:
            raise Refused(422, f"model is {name[:40]!r}; give one of {', '.join(models)}")
        if portrait and models[name].foreground is None:
            raise Refused(422, f"model {name} cannot make portraits: {no_foreground(models[name].classes)}")
        return models[name]

    default = next(iter(models))
    person = next((name for name, model in models.items() if model.foreground is not None), default)

    async def picture(request: Request, prepare: Callable[[FormData], Awaitable[Work]]) -> Response:
        """One request from its place to its answer.  `prepare` checks the fields before anything is decoded."""
        with workshop.place() as place:
            form = await read_form(request, limits)
            work = await prepare(form)
            data = await file_of(form, "file")
            await form.close()
            return await workshop.run(place, _careful(lambda: work(decode(data, limits))))

    @app.post("/v1/portrait", **schema.PORTRAIT)
    async def portrait(request: Request) -> Response:
        async def prepare(form: FormData) -> Work:
            predictor = chosen(text_of(form, "model", person), portrait=True)
            views = text_of(form, "views", "true", ("true", "false")) == "true"
            word = form.get("background", "blur")
            if isinstance(word, str):
                background_of(word, limits)  # refused here, not after the picture has waited for its turn
                given: str | bytes = word
            else:
                given = await file_of(form, "background")

            def work(image: np.ndarray) -> Response:
                result = Portrait(background_of(given, limits), predictor, views=views)(image)
                return png(Image.fromarray(result.pixels), {"x-person-share": f"{result.share:.4f}"})

            return work

        return await picture(request, prepare)

    @app.post("/v1/segment", **schema.SEGMENT)
    async def segment(request: Request) -> Response:
        async def prepare(form: FormData) -> Work:
            name = text_of(form, "model", default)
            predictor = chosen(name)
            answer = ANSWERS[text_of(form, "format", "png", tuple(ANSWERS))]

            def work(image: np.ndarray) -> Response:
                result = predictor(image, name="upload")
                result.facts["model"] = name  # not the path from which the server has it
                return answer(result)

            return work

        return await picture(request, prepare)

    @app.get("/v1/models", summary="The models of this server")
    async def list_models() -> list[dict[str, Any]]:
        return [describe(name, model) for name, model in models.items()]

    @app.get("/healthz", summary="Whether the server lives, and how busy it is")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "places": limits.places, "taken": workshop.taken}

    for path, (content, kind) in assets("server").items():
        app.add_api_route(path, _constant(content, kind), include_in_schema=False)
    return app


def _constant(content: bytes, kind: str) -> Callable[[], Any]:
    async def asset() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return asset


def _careful(work: Callable[[], Response]) -> Callable[[], Response]:
    """`work` whose unforeseen errors become answers that say nothing of the server's insides."""

    def run() -> Response:
        try:
            return work()
        except Refused:
            raise
        except MemoryError:
            raise Refused(413, "there is not enough memory for this picture; send a smaller one") from None
        except ValueError as error:
            raise Refused(422, str(error)) from None
        except Exception:
            log.exception("a picture failed")
            raise Refused(500, "the picture could not be computed; the server's log says why") from None

    return run


def png(image: Image.Image, headers: dict[str, str] | None = None) -> Response:
    """A picture as the answer."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return Response(stream.getvalue(), media_type="image/png", headers=headers)


ANSWERS: dict[str, Callable[[Result], Response]] = {
    "png": lambda result: png(result.index_image),
    "overlay": lambda result: png(result.overlay),
    "json": lambda result: JSONResponse(result.as_dict()),
}


def describe(name: str, model: SharedPredictor) -> dict[str, Any]:
    """A model as `/v1/models` lists it: classes, colours, licences; no path of the server."""
    return {
        "name": name,
        "architecture": model.model.title,
        "portrait": model.foreground is not None,
        "foreground": model.classes[model.foreground] if model.foreground is not None else None,
        "classes": list(model.classes),
        "palette": [list(colour) for colour in model.palette],
        "licences": model.model.weights_header.get("licences", {}),
    }
