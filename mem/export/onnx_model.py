"""The classifier as an ONNX model: one file for every runtime that reads ONNX.

The input and the outputs are those of the torch program: prepared images as uint8 (samples, side, side, 3), with any
number of samples. Normalisation is part of the model; cropping and resizing are not. If the metadata contain `crops`,
the mean logits of the crops of an image are its prediction. The metadata (`metadata_props`) contain, as JSON, the class
names, the preparation of images, and the content of export.json.
"""

from __future__ import annotations

import json
import mmap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mem import provenance
from mem.errors import UserError
from mem.export.classifier import ImageClassifier, difference_above_tolerance

FILE = "model.onnx"
OPSET = 18
"""Version of ONNX's operators."""
ABOUT_KEY = "mem.export"
"""Key of the metadata with the content of export.json."""
GROUPS_KEY = "mem.groups"
"""Key of the metadata with the names of MEM's groups; an empty list for other heads."""
BATCHES = (1, 3, 7)
"""Numbers of images with which a written model is checked."""
_LARGEST_FILE = 2_000_000_000
"""Weights with more bytes are written to a second file, because a file of the format is limited to 2 GiB."""


def require_onnx() -> tuple[ModuleType, ModuleType]:
    """Import onnx and onnxruntime.

    Raises:
        UserError: The extra `onnx` is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx.export requires it
    except ImportError as error:
        raise UserError(
            f"ONNX models require the package {error.name}. Install the extra: pip install 'mem-longtail[onnx]'"
        ) from None
    return onnx, onnxruntime


def is_onnx_of_mem(path: Path) -> bool:
    """Return whether mem wrote an ONNX model. The extra `onnx` is not needed. A missing file is none."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.rfind(ABOUT_KEY.encode()) >= 0  # the metadata are at the end of the file
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


class OnnxClassifier:
    """Computes the outputs of `ImageClassifier` with ONNX Runtime.

    Args:
        path: The model.

    Raises:
        UserError: The extra `onnx` is not installed, or the file is not an ONNX model.
    """

    def __init__(self, path: Path) -> None:
        _, onnxruntime = require_onnx()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = provenance.cpus()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many types of exceptions
            cause = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: ONNX Runtime cannot read this file: {cause}. Export the head again.") from None
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, images: UInt8[Tensor, "samples side side 3"]) -> dict[str, Float[Tensor, "samples values"]]:
        """Return what `ImageClassifier.forward` returns."""
        values = self._session.run(self._outputs, {self._input: images.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self._outputs, values, strict=True)}


def write_onnx(classifier: ImageClassifier, about: Mapping[str, Any], groups: Sequence[str], path: Path) -> None:
    """Write the model, and compare its outputs with those of the classifier for several numbers of images.

    Args:
        classifier: The head and its backbone.
        about: Content of export.json.
        groups: Names of MEM's groups; empty for other heads.
        path: Destination, in a folder that nothing else reads yet.

    Raises:
        UserError: The extra `onnx` is not installed, the network cannot be converted, or the outputs differ.
    """
    onnx, _ = require_onnx()
    side = about["backbone"]["image_size"]
    # Trace with two images, because torch.export would treat a batch size of one as a constant.
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with torch.no_grad():
        names = list(classifier(example))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch.onnx, which the user cannot act on
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
                input_names=["images"],
                output_names=names,
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten._cdist_forward.default: _distances},
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(metadata_of(about, groups))
        size = sum(t.numel() * t.element_size() for t in (*classifier.parameters(), *classifier.buffers()))
        program.save(path, external_data=size > _LARGEST_FILE)
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # torch and onnx raise many types of exceptions, all caused by the network's code
        cause = " ".join(str(error).split())[:400]
        raise UserError(
            f"This network cannot be converted to ONNX: {cause}\nUse --format mem, which writes a torch program."
        ) from None
    _compare(classifier, OnnxClassifier(path), side)


def metadata_of(about: Mapping[str, Any], groups: Sequence[str]) -> dict[str, str]:
    """Return the metadata of the model. Class names are in the order of the outputs."""
    images, backbone = about["images"], about["backbone"]
    preparation = {
        "input": "uint8 RGB, (samples, side, side, 3)",
        "side": backbone["image_size"],
        "center_crop": backbone["center_crop"],
        **({"crops": about["crops"]} if "crops" in about else {}),
        **{name: images[name] for name in ("short_side", "resample", "storage", "jpeg_quality")},
        "normalisation": {"mean": images["pixel_mean"], "std": images["pixel_std"], "part_of_model": True},
    }
    contents = {"classes": about["classes"], "preprocessing": preparation, ABOUT_KEY: about, GROUPS_KEY: list(groups)}
    return {name: json.dumps(content) for name, content in contents.items()}


def _distances(first: Any, second: Any, p: float, compute_mode: Any = None) -> Any:
    """Compute Euclidean distances between rows (torch.cdist, for nearest class means) with operators of ONNX."""
    assert p == 2
    from onnxscript import opset18

    op: Any = opset18
    rows = op.ReduceSumSquare(first, op.Constant(value_ints=[-1]), keepdims=1)
    columns = op.Transpose(op.ReduceSumSquare(second, op.Constant(value_ints=[-1]), keepdims=1), perm=[1, 0])
    products = op.MatMul(first, op.Transpose(second, perm=[1, 0]))
    two = op.CastLike(op.Constant(value_float=2.0), products)
    return op.Sqrt(op.Relu(op.Sub(op.Add(rows, columns), op.Mul(two, products))))


@torch.no_grad()
def _compare(classifier: ImageClassifier, converted: OnnxClassifier, side: int) -> None:
    generator = np.random.default_rng(0)
    for number in BATCHES:
        images = torch.from_numpy(generator.integers(0, 256, (number, side, side, 3), dtype=np.uint8))
        expected, found = classifier(images), converted(images)
        for name, values in expected.items():
            if (difference := difference_above_tolerance(found[name], values)) is not None:
                raise UserError(
                    f"ONNX Runtime computes {name} for {number} images that differ by up to {difference:.2g} from "
                    "those of PyTorch. Use --format mem, which writes a torch program."
                )
