"""Segmentarium: published segmentation systems in one maintained PyTorch library.

    import segmentarium
    for result in segmentarium.predict("photo.jpg", "person"):
        result.save("out")

Names are imported when they are first used, so that `import segmentarium` costs next to nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from segmentarium.version import __version__

# Nothing leaves the machine: what other packages would report home is switched off before any of them is imported.
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1", RAY_USAGE_STATS_ENABLED="0")

# public name -> module that defines it; `tests/unit/test_public_api.py` freezes this list
_PUBLIC = {
    "create_model": "registry",
    "list_models": "registry",
    "model_card": "registry",
    "create_backbone": "backbones",
    "with_dbb": "reparameterize",
    "with_cac": "semantic.cac",
    "with_map": "lidar.mapfusion",
    "insert_block": "registry",
    "load": "weights",
    "save": "weights",
    "from_pretrained": "weights",
    "inspect_weights": "weights",
    "list_published": "weights",
    "push_to_hub": "weights",
    "predict": "inference",
    "Predictor": "inference",
    "ImageClassifier": "inference",
    "KeypointFinder": "inference",
    "match_pictures": "inference",
    "ScanDetector": "inference",
    "adapt": "inference",
    "batch": "scale",
    "Result": "inference",
    "Portrait": "matting",
    "evaluate": "evaluation",
    "probe": "evaluation",
    "compare": "comparison",
    "train": "training",
    "TrainingOptions": "training",
    "pseudo_labels": "training.self_training",
    "check_data": "data",
    "benchmark": "benchmarking",
    "export_model": "export",
    "export_web": "web",
    "serve": "web",
    "combinations": "composition",
    "build_dataset": "data",
    "build_loss": "losses",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from segmentarium.backbones import create_backbone as create_backbone
    from segmentarium.benchmarking import benchmark as benchmark
    from segmentarium.comparison import compare as compare
    from segmentarium.composition import combinations as combinations
    from segmentarium.data import build_dataset as build_dataset
    from segmentarium.data import check_data as check_data
    from segmentarium.evaluation import evaluate as evaluate
    from segmentarium.evaluation import probe as probe
    from segmentarium.export import export_model as export_model
    from segmentarium.inference import ImageClassifier as ImageClassifier
    from segmentarium.inference import KeypointFinder as KeypointFinder
    from segmentarium.inference import Predictor as Predictor
    from segmentarium.inference import Result as Result
    from segmentarium.inference import ScanDetector as ScanDetector
    from segmentarium.inference import adapt as adapt
    from segmentarium.inference import match_pictures as match_pictures
    from segmentarium.inference import predict as predict
    from segmentarium.lidar.mapfusion import with_map as with_map
    from segmentarium.losses import build_loss as build_loss
    from segmentarium.matting import Portrait as Portrait
    from segmentarium.registry import create_model as create_model
    from segmentarium.registry import insert_block as insert_block
    from segmentarium.registry import list_models as list_models
    from segmentarium.registry import model_card as model_card
    from segmentarium.reparameterize import with_dbb as with_dbb
    from segmentarium.scale import batch as batch
    from segmentarium.semantic.cac import with_cac as with_cac
    from segmentarium.training import TrainingOptions as TrainingOptions
    from segmentarium.training import train as train
    from segmentarium.training.self_training import pseudo_labels as pseudo_labels
    from segmentarium.web import export_web as export_web
    from segmentarium.web import serve as serve
    from segmentarium.weights import from_pretrained as from_pretrained
    from segmentarium.weights import inspect_weights as inspect_weights
    from segmentarium.weights import list_published as list_published
    from segmentarium.weights import load as load
    from segmentarium.weights import push_to_hub as push_to_hub
    from segmentarium.weights import save as save


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'segmentarium' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segmentarium.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
