"""The HTTP API and the page, as an ASGI application.

    POST /v1/portrait  file, background, model, views  -> PNG
    POST /v1/segment   file, model, task, format       -> PNG of class indices or numbers of segments, or JSON
    GET  /v1/models, /healthz, /openapi.json, /docs, /

Errors are `{"detail": "what was wrong and what to do"}` with the fitting status.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from segmentarium.contracts import TASKS, MaskModel
from segmentarium.files import png_bytes
from segmentarium.inference.drawing import shown_classes
from segmentarium.inference.result import Result
from segmentarium.inference.segment_result import SegmentResult, numbers_as_colours
from segmentarium.matting import Portrait
from segmentarium.matting.finder import no_foreground
from segmentarium.version import __version__
from segmentarium.web import schema
from segmentarium.web.assets import assets
from segmentarium.web.decoding import ENDING, Decoders
from segmentarium.web.limits import Limits, Refused
from segmentarium.web.uploads import background_of, check_fields, file_of, read_form, text_of
from segmentarium.web.work import SharedPredictor, SharedSegmentPredictor, Workshop

log = logging.getLogger("segmentarium.web")

Decode = Callable[[int | None], np.ndarray]  # the picture; of one deeper than 8 bits a value, by so many
Work = Callable[[Decode], Response]
Shared = SharedPredictor | SharedSegmentPredictor

LINGER = 5.0  # seconds for which a refused upload is read on
PIECE = 2**16  # bytes of an answer that are handed over at a time
CLOSE = {"connection": "close"}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self' blob: data:; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Lingering(JSONResponse):
    """A refusal while the request is still being sent: it is read on, and thrown away, for a while.

    A connection that is closed on somebody who is sending is reset, and then many clients never see the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


class Unhurried(Response):
    """An answer in pieces, so that what is not read is not buffered twice; `after` is called when it is gone, or given up."""

    def __init__(self, answer: Response, seconds: float, after: Callable[[], None]) -> None:
        self.status_code, self.background = answer.status_code, None
        self.body, self.raw_headers = answer.body, answer.raw_headers
        self._seconds, self._after = seconds, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = memoryview(self.body)
        try:
            async with asyncio.timeout(self._seconds):
                start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                await send(start)
                for place in range(0, len(body), PIECE):
                    await send(
                        {"type": "http.response.body", "body": bytes(body[place : place + PIECE]), "more_body": True}
                    )
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:  # the connection is closed by the server's own clock
            log.info("an answer was not read within %g seconds", self._seconds)
        finally:
            self._after()


def same_site(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of this server, or from no page at all, as browsers tell it."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "") != ""


class Guard:
    """Adds the headers that keep the page to itself, and refuses requests made under another host's name or by another's page.

    hosts  allowed in the Host header, None: any.  A server on the loopback answers to the loopback's names only, or any
           website could rebind its own name to 127.0.0.1 and read the answers.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        begun = False

        async def sealed(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                present = {key for key, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get("host", "")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            answer = Lingering({"detail": f"this server does not answer to the name {host[:80]!r}"}, 421, CLOSE)
            return await answer(scope, receive, sealed)
        if scope["method"] not in ("GET", "HEAD") and not same_site(headers):
            answer = Lingering({"detail": "another site's page may not make this server compute"}, 403, CLOSE)
            return await answer(scope, receive, sealed)
        try:
            return await self._app(scope, receive, sealed)
        except asyncio.CancelledError:  # only the server's end does that
            if not begun:
                answer = JSONResponse({"detail": ENDING}, 503, CLOSE | {"retry-after": "10"})
                return await answer(scope, receive, sealed)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def create_app(
    models: Mapping[str, Shared], limits: Limits | None = None, *, hosts: Sequence[str] | None = None
) -> FastAPI:
    """The application.

    models  name in requests -> predictor; the first one is the default
    hosts   names under which it answers, None: any
    """
    if not models:
        raise ValueError("models is empty; give at least one")
    limits = limits or Limits()
    workshop, decoders = Workshop(limits), Decoders(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        decoders.close()
        workshop.close()

    app = FastAPI(
        title="Segmentarium",
        version=__version__,
        description="Portraits cut out and pictures segmented on this machine. Nothing is kept, nothing is sent on.",
        lifespan=lifespan,
        docs_url=None,  # its page would be fetched from another host; ours is among the assets
        redoc_url=None,
    )
    app.state.workshop, app.state.decoders, app.state.limits = workshop, decoders, limits
    app.add_middleware(Guard, hosts=tuple(hosts) if hosts is not None else None)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
        if getattr(request.state, "read", False):
            return JSONResponse({"detail": error.message}, error.status, headers)
        return Lingering({"detail": error.message}, error.status, headers | CLOSE)

    def chosen(name: str) -> Shared:
        if name not in models:
            raise Refused(422, f"model is {name[:40]!r}; give one of {', '.join(models)}")
        return models[name]

    def of_persons(name: str) -> SharedPredictor:
        model = chosen(name)
        if model.foreground is None or not isinstance(model, SharedPredictor):
            raise Refused(422, f"model {name} cannot make portraits: {no_foreground(model.classes)}")
        return model

    default = next(iter(models))
    person = next((name for name, model in models.items() if model.foreground is not None), default)

    async def picture(
        request: Request, fields: Sequence[str], prepare: Callable[[FormData], Awaitable[Work]]
    ) -> Response:
        """One request from its place to its answer.  `prepare` checks the fields before anything is decoded."""
        with workshop.place() as place:
            form = await read_form(request, limits)
            work = await prepare(form)
            data = [await file_of(form, "file")]
            check_fields(form, fields)
            await form.close()
            answer = await workshop.run(
                place, _careful(lambda: work(lambda bits: decoders.decode(data.pop(), bits=bits)))
            )
            return Unhurried(answer, limits.answer_seconds, place.keep())  # who does not read it keeps the place

    @app.post("/v1/portrait", **schema.PORTRAIT)
    async def portrait(request: Request) -> Response:
        async def prepare(form: FormData) -> Work:
            predictor = of_persons(text_of(form, "model", person))
            views = text_of(form, "views", "true", ("true", "false")) == "true"
            word = form.get("background", "blur")
            if isinstance(word, str):
                background_of(word, decoders.decode)  # refused here, not after the picture has waited for its turn
                given: str | bytes = word
            else:
                given = await file_of(form, "background")

            def work(decode: Decode) -> Response:
                image = decode(predictor.preprocessing.bits)
                result = Portrait(background_of(given, decoders.decode), predictor, views=views)(image)
                return png(Image.fromarray(result.pixels), {"x-person-share": f"{result.share:.4f}"})

            return work

        return await picture(request, ("file", "background", "model", "views"), prepare)

    @app.post("/v1/segment", **schema.SEGMENT)
    async def segment(request: Request) -> Response:
        async def prepare(form: FormData) -> Work:
            name = text_of(form, "model", default)
            model, task = chosen(name), text_of(form, "task", "", ("", *TASKS))
            answer = ANSWERS[text_of(form, "format", "png", tuple(ANSWERS))]
            given = threshold_of(form)
            if task in TASKS[1:] and not isinstance(model.model, MaskModel):
                raise Refused(422, f"model {name} tells no segments apart; leave task out")

            def work(decode: Decode) -> Response:
                image = decode(model.preprocessing.bits)
                predictor = model.for_task(task or None)
                if given is not None and isinstance(predictor, SharedSegmentPredictor):
                    predictor = predictor.asked(predictor.task, given)
                result = predictor(image, name="upload")
                result.facts["model"] = name  # not the path from which the server has it
                return answer(result)

            return work

        return await picture(request, ("file", "model", "task", "threshold", "format"), prepare)

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
    return Response(png_bytes(image, 1), media_type="image/png", headers=headers)


def threshold_of(form: FormData) -> float | None:
    """How sure the model must be of a segment; None: not said.  Refused (422) for what is no share."""
    word = text_of(form, "threshold", "")
    try:
        found = float(word) if word else None
    except ValueError:
        found = -1.0
    if found is not None and not 0 <= found <= 1:
        raise Refused(422, f"threshold is {word[:40]!r}; give a share from 0 to 1")
    return found


def _counted(result: Result) -> dict[str, str] | None:
    return {"x-segments": str(len(result.segments))} if isinstance(result, SegmentResult) else None


def _overlay(result: Result) -> Response:
    if isinstance(result, SegmentResult):  # has its names where its segments are
        return png(result.overlay, _counted(result))
    present = shown_classes(result.classes, result.areas, result.palette)
    return png(result.overlay, {"x-classes": ",".join(map(str, present))})


def _map(result: Result) -> Response:
    if not isinstance(result, SegmentResult):
        return png(result.index_image)
    return png(Image.fromarray(numbers_as_colours(result.segments.ids)), _counted(result))


def _json(result: Result) -> Response:
    content = result.as_dict()
    if isinstance(result, SegmentResult):
        masks = {one["id"]: one["segmentation"] for one in result.coco()["annotations"]}
        content["segments"] = [{**one, "segmentation": masks[one["number"]]} for one in content["segments"]]
    return JSONResponse(content)


ANSWERS: dict[str, Callable[[Result], Response]] = {
    "png": _map,
    "overlay": _overlay,
    "json": _json,
}


def describe(name: str, model: Shared) -> dict[str, Any]:
    """A model as `/v1/models` lists it: classes, colours, tasks, the usual one first, licences; no path of the server."""
    others = TASKS if isinstance(model.model, MaskModel) else ()
    return {
        "name": name,
        "architecture": model.model.title,
        "portrait": model.foreground is not None,
        "foreground": model.classes[model.foreground] if model.foreground is not None else None,
        "tasks": [model.task, *(task for task in others if task != model.task)],
        "classes": list(model.classes),
        "palette": [list(colour) for colour in model.palette],
        "licences": model.model.weights_header.get("licences", {}),
    }
