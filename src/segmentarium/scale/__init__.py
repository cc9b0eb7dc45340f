"""Prediction over millions of pictures: on worker processes of this machine, or on a cluster through Ray Data.

    report = segmentarium.batch("s3://bucket/photos", "street", "s3://bucket/masks", address="auto")

A job is a list of parts of some hundred pictures each.  What is done is files beside the results, so that a job that was killed
goes on where it was, on either kind of worker, and needs nobody who remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.scale.job import BatchReport, batch

_HOME_OF = {"BatchReport": "job", "batch": "job"}

__all__ = ["BatchReport", "batch"]

__getattr__ = lazy_names(__name__, _HOME_OF)
