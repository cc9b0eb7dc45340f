"""The page and the HTTP API, and the same page with the network inside it.

`serve` is `segmentarium serve`, `export_web` is `segmentarium export-web DIR`.  Both need nothing from any other host, and
either works without the other's extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.web.limits import Limits
    from segmentarium.web.offline import export_web
    from segmentarium.web.server import serve

__all__ = ["Limits", "export_web", "serve"]

__getattr__ = lazy_names(__name__, {"Limits": "limits", "export_web": "offline", "serve": "server"})
