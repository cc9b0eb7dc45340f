"""Weights by name.  A name is `MODEL.TAG`, or a short alias for the ones that the package ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILES = Path(__file__).resolve().parent / "files"


@dataclass(frozen=True)
class Weights:
    """One entry: the file (in the package) or hub address; everything else stands in the file's own header.

    exported  the network as ONNX (a file in the package), made by `segmentarium export`; "": there is none
    """

    name: str
    model: str
    location: str
    alias: str = ""
    exported: str = ""


CATALOGUE: tuple[Weights, ...] = (
    Weights("deeplabv3plus.person", "deeplabv3plus", "person.safetensors", alias="person", exported="person.onnx"),
    Weights("deeplabv3plus.people", "deeplabv3plus", "person_large.safetensors", alias="person_large"),
    Weights("superpoint_small.free", "superpoint_small", "superpoint.safetensors", alias="superpoint.free"),
    Weights("swiftnet.camvid", "swiftnet", "street.safetensors", alias="street"),
    Weights("deeplabv3plus.camvid", "deeplabv3plus", "street_small.safetensors", alias="street_small"),
)


def find(name: str) -> Weights | None:
    """The entry called `name`, by full name or alias."""
    return next((entry for entry in CATALOGUE if name in (entry.name, entry.alias)), None)


def list_weights() -> list[str]:
    """All names and aliases of the catalogue."""
    return [name for entry in CATALOGUE for name in (entry.alias, entry.name) if name]
