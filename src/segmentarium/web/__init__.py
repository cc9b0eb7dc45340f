"""The page and the HTTP API, and the same page with the network inside it.

`segmentarium serve` runs `app.create_app`; `segmentarium export-web DIR` writes `offline.export_web`.  Both need nothing
from any other host.  This package imports nothing, so that either works without the other's extra.
"""
