"""What the OpenAPI document says of the two requests that carry pictures; their bodies are read by hand, within limits."""

from __future__ import annotations

from typing import Any

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The upload is incomplete or lacks its file."},
    403: {"description": "Another site's page asked."},
    408: {"description": "The upload took too long."},
    413: {"description": "Too many bytes, or too many pixels (nothing was decoded)."},
    415: {"description": "The body is not multipart/form-data."},
    422: {"description": "Not a picture, or a damaged or too dear one; an unknown field, model, background or word."},
    503: {"description": "All places are taken; Retry-After says when to come back."},
    504: {"description": "Not done in time."},
}
_FILE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, GIF (first frame), BMP or TIFF"}
_MODEL = {"type": "string", "description": "a name of /v1/models"}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["file"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


PORTRAIT: dict[str, Any] = {
    "summary": "The person of a picture in front of another background",
    "description": "RGB, or RGBA in front of nothing; what is transparent in the upload stays so. The header "
    "x-person-share says how much of the picture the person takes, 0 to 1.",
    "response_model": None,
    "responses": {
        200: {"description": "The result, as large as the picture.", "content": {"image/png": {}}},
        **_ERRORS,
    },
    "openapi_extra": _body(
        {
            "file": _FILE,
            "background": {
                "description": "blur, blur:STRENGTH (per cent of the longer side), transparent, a colour (#20c040), "
                "or a picture as a file",
                "anyOf": [{"type": "string", "default": "blur"}, {"type": "string", "format": "binary"}],
            },
            "model": _MODEL,
            "views": {
                "type": "boolean",
                "default": True,
                "description": "look at the picture in three sizes, and mirrored: a calmer mask in five times the network's time",
            },
        }
    ),
}

SEGMENT: dict[str, Any] = {
    "summary": "The class of every pixel, or the segments of a picture",
    "response_model": None,
    "responses": {
        200: {
            "description": "png: class indices with the classes' colours as palette; overlay: painted over the picture, "
            "and in the header x-classes the indices of the classes that are, largest first; "
            "json: classes with their shares of the picture. Where segments are told apart, png: their numbers, "
            "R + 256 G + 65536 B, as COCO has them (0: none); json: besides, each segment with its number, class, score, area, "
            "box and mask (COCO's compressed runs); and the header x-segments says how many there are.",
            "content": {"image/png": {}, "application/json": {}},
        },
        **_ERRORS,
    },
    "openapi_extra": _body(
        {
            "file": _FILE,
            "model": _MODEL,
            "task": {
                "type": "string",
                "enum": ["semantic", "instance", "panoptic"],
                "description": "of mask classifiers (tasks in /v1/models; default: the first of them)",
            },
            "threshold": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "of segments: how sure the model must be (default: 0.5, panoptic 0.8)",
            },
            "format": {"type": "string", "enum": ["png", "overlay", "json"], "default": "png"},
        }
    ),
}
