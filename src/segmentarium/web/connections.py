"""The connections of the server: clocks for what a client sends and reads, and room for a new one among silent ones."""

from __future__ import annotations

import os
import threading
from asyncio import BaseTransport, TimerHandle, Transport
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from segmentarium.web.limits import Limits


def protocol_of(limits: Limits) -> type[H11Protocol]:
    """HTTP/1.1 of uvicorn's whose connections have the clocks of `limits`.

    uvicorn closes connections that are silent after an answer, but waits for ever for the lines of a request, and for whoever
    does not read; and it refuses everyone once so many are connected, silent ones counted.
    """

    class Bounded(H11Protocol):
        _head: TimerHandle | None = None
        _unread: TimerHandle | None = None

        def connection_made(self, transport: BaseTransport) -> None:
            super().connection_made(cast("Transport", transport))
            self.since = self.loop.time()
            self._wait_for_head()
            self._make_room()

        @property
        def answering(self) -> bool:
            """Whether a request is here, and its answer not yet complete."""
            return self.cycle is not None and not self.cycle.response_complete

        def _make_room(self) -> None:
            if len(self.connections) <= limits.connections:
                return
            there = [one for one in self.connections if isinstance(one, Bounded) and not one.transport.is_closing()]
            if len(there) <= limits.connections:  # the others are on their way out
                return
            silent = [one for one in there if not one.answering]
            min(silent, key=lambda one: one.since, default=self).transport.abort()

        def _wait_for_head(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(limits.head_seconds, self._too_late)

        def _too_late(self) -> None:
            self._head = None
            if not self.answering:
                self.transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.answering:
                self._head = _cancelled(self._head)
                self.since = self.loop.time()
            else:
                self._wait_for_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self.loop.call_later(limits.answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unread = _cancelled(self._unread)

        def connection_lost(self, exc: Exception | None) -> None:
            self._head, self._unread = _cancelled(self._head), _cancelled(self._unread)
            super().connection_lost(exc)

    return Bounded


def _cancelled(clock: TimerHandle | None) -> None:
    if clock is not None:
        clock.cancel()


class EndingServer(uvicorn.Server):
    """A server whose process ends within `seconds` of the first signal, whatever is being computed; `before` is called then.

    After four fifths of them it is ended: the rest is for `before`, and for a machine on which threads wait for their turn.
    """

    def __init__(self, config: uvicorn.Config, seconds: float, before: Callable[[], Any]) -> None:
        super().__init__(config)
        self._seconds, self._before = seconds, before
        self.clock: threading.Timer | None = None  # to the end; who goes on after `run` may cancel it

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:

            def end() -> None:
                self._before()
                os._exit(128 + sig)  # threads that compute cannot be stopped otherwise

            self.clock = threading.Timer(0.8 * self._seconds, end)
            self.clock.daemon = True
            self.clock.start()
        super().handle_exit(sig, frame)
