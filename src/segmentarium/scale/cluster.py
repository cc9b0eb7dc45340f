"""Workers on a cluster, as actors of Ray Data: they load the model once, and take parts as they get free.

Pictures do not travel through Ray: an actor reads, decodes and writes in threads beside its network, so that names and counts
are all that goes from machine to machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from segmentarium.runtimes import import_ray
from segmentarium.scale.manifest import Part

BLOCKS = 4000  # of parts, at the most: Ray counts and moves these
LOCAL = "local"


class Actor:
    """What Ray runs on each worker."""

    def __init__(self, settings: str) -> None:
        from segmentarium.scale.work import worker_of

        self._worker = worker_of(settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """{"part": their texts} -> {"record": those of what was done}"""
        return {"record": [json.dumps(self._worker.do(Part.from_json(str(text)))) for text in batch["part"]]}


def run(settings: str, parts: Sequence[Part], workers: int | None, address: str) -> Iterator[dict[str, Any]]:
    """The record of each part, as they are done.

    workers   actors at the most; None: as many as the cluster has room for
    address   "auto": the cluster that this machine belongs to; HOST:PORT; "local": one that is started on this machine

    ImportError without Ray, ConnectionError where no cluster answers, ChildProcessError where a worker fails.
    """
    ray = import_ray()
    threads = json.loads(settings)["threads"]
    begun = not ray.is_initialized()
    if begun:
        more = {"include_dashboard": False} if address == LOCAL else {}
        ray.init(address=address, log_to_driver=False, logging_level="error", **more)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        resources = ray.cluster_resources()
        gpus = 1 if resources.get("GPU", 0) >= 1 and not (json.loads(settings)["device"] or "").startswith("cpu") else 0
        room = int(resources["GPU"]) if gpus else max(1, int(resources.get("CPU", 1)) // threads)
        most = max(1, min(workers or room, len(parts)))
        given = ray.data.from_items(
            [{"part": part.to_json()} for part in parts], override_num_blocks=min(len(parts), BLOCKS)
        )
        done = given.map_batches(
            Actor, fn_constructor_args=(settings,), batch_size=1, num_cpus=threads, num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        )  # fmt: skip
        for row in done.iter_rows():
            yield json.loads(row["record"])
    except ray.exceptions.RayError as error:  # its message is the story of the worker; what it ends with is the error
        raise ChildProcessError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if begun:
            ray.shutdown()
