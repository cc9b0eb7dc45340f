"""The public names, frozen; and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import segmentarium

# A name here is a promise to users: change it on purpose, with a line in the changelog.
PUBLIC = {
    "ImageClassifier",
    "KeypointFinder",
    "Portrait",
    "Predictor",
    "Result",
    "ScanDetector",
    "TrainingOptions",
    "__version__",
    "adapt",
    "batch",
    "benchmark",
    "build_dataset",
    "build_loss",
    "check_data",
    "combinations",
    "compare",
    "create_backbone",
    "insert_block",
    "inspect_weights",
    "list_published",
    "create_model",
    "evaluate",
    "export_model",
    "export_web",
    "from_pretrained",
    "list_models",
    "load",
    "match_pictures",
    "model_card",
    "predict",
    "pseudo_labels",
    "probe",
    "push_to_hub",
    "save",
    "serve",
    "train",
    "with_cac",
    "with_dbb",
    "with_map",
}
# verb of the command line -> the function or class that it calls
FUNCTION_OF = {
    "segment": "predict",
    "batch": "batch",
    "classify": "predict",
    "keypoints": "predict",
    "match": "match_pictures",
    "portrait": "Portrait",
    "detect3d": "ScanDetector",
    "train": "train",
    "adapt": "adapt",
    "pseudo-label": "pseudo_labels",
    "pretrain": "train",
    "probe": "probe",
    "evaluate": "evaluate",
    "compare": "compare",
    "export": "export_model",
    "benchmark": "benchmark",
    "check-data": "check_data",
    "serve": "serve",
    "export-web": "export_web",
    "weights": "list_published",
    "verify": "evaluate",
    "inspect": "inspect_weights",
    "load-check": "inspect_weights",
    "models": "list_models",
}
HEAVY = (
    "lightning", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "openvino", "matplotlib", "cv2", "av",
    "torchmetrics", "tensorboard", "transformers", "segmentation_models_pytorch", "huggingface_hub", "rich", "scipy",
    "skimage", "torch._dynamo",
)  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys; print('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stdout.rpartition("modules:")[2].split())


def test_the_public_names_are_frozen() -> None:
    assert set(segmentarium.__all__) == PUBLIC
    assert set(dir(segmentarium)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_explains_itself(name: str) -> None:
    found = getattr(segmentarium, name)
    if name != "__version__":
        assert (found.__doc__ or "").strip()
        assert found.__module__.startswith("segmentarium.")


def test_every_verb_is_a_function_at_the_top() -> None:
    from segmentarium.cli.main import VERBS

    assert FUNCTION_OF.keys() == VERBS.keys()
    assert set(FUNCTION_OF.values()) <= PUBLIC
    assert all(callable(getattr(segmentarium, name)) for name in FUNCTION_OF.values())


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'segmentarium' has no attribute 'create_modle'"):
        segmentarium.create_modle  # noqa: B018


def test_import_brings_nothing_along() -> None:
    own = {"segmentarium", "segmentarium.version", "__future__"}
    extra = modules_after("import importlib, typing, segmentarium") - modules_after("import importlib, typing")
    assert extra <= own


def test_create_model_imports_nothing_heavy() -> None:
    loaded = modules_after("import segmentarium; segmentarium.list_models(); segmentarium.create_model('pphumanseg')")
    assert "torch" in loaded
    assert not loaded & set(HEAVY)
    # and of our own only what the model is made of
    assert {module for module in loaded if module.startswith("segmentarium.semantic")} == set()
    assert "segmentarium.data" not in loaded


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert segmentarium.__version__ == version("segmentarium")
