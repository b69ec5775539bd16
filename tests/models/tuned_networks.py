"""Tiny networks and tuners for tests."""

from __future__ import annotations

import copy
import functools
from typing import Any
from unittest import mock

import timm
import torch
from pydantic import TypeAdapter
from torch import Tensor

from mem import config
from mem.config.tuners import TunerSection
from mem.models.backbones import BackboneClassifier, add_tuner, build, network_name

CLASSES = 3
VIT = config.VisionTransformer(
    name="vit", kind="vit", image_size=16, patch_size=8, width=16, depth=2, heads=2, center_crop=1.0
)
CONVMAE = config.ConvMae(
    name="convmae",
    kind="convmae",
    image_size=32,
    patch_sizes=(4, 2, 2),
    widths=(8, 8, 16),
    depths=(1, 1, 2),
    heads=2,
    center_crop=1.0,
)
SMALL = {"embed_dim": 12, "depth": 2, "num_heads": 3}
OPTIONS = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch14_reg4_dinov2": {**SMALL, "patch_size": 16},
    "vit_base_patch16_siglip_224": SMALL,
    "vit_small_patch16_dinov3": SMALL,
    "vit_small_patch16_dinov3_qkvb": SMALL,
    "beit_base_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL | {"depth": 3},
    "resnet10t": {"channels": (8, 8, 8, 16)},
    "convnext_atto": {"depths": (1, 1, 1, 2), "dims": (4, 4, 8, 8)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 1, 1, 1), "window_size": 1},
}
"""Architectures of timm, and the options that make them tiny."""


def timm_settings(model: str, norm_batch: int | None = None) -> config.TimmNetwork:
    """Return the settings of one of `OPTIONS` for images of 32 pixels."""
    return config.TimmNetwork(
        name="timm", kind="timm", model=model, image_size=32, norm_batch=norm_batch, center_crop=1.0
    )


CNN = timm_settings("resnet10t", norm_batch=4)
CONVNEXT = timm_settings("convnext_atto")
SWIN = timm_settings("swin_tiny_patch4_window7_224")
VITS = {name: timm_settings(name) for name, options in OPTIONS.items() if options.get("depth") == 2}
TRANSFORMERS: dict[str, config.ImageBackbone] = {"vit": VIT, "convmae": CONVMAE, **VITS}
BACKBONES = {**TRANSFORMERS, "cnn": CNN}


def tuner(name: str, **settings: object) -> Any:
    """Return the settings of a tuner, with values for tiny networks."""
    complete = {
        "last_blocks": {"blocks": 1},
        "lora": {"rank": 2, "alpha": 3.0, "layers": ("query", "value")},
        "adaptformer": {"width": 8, "scale": "learnt"},
        "vpt": {"tokens": 3, "deep": True},
    }.get(name, {})
    return TypeAdapter(config.Tuner).validate_python({"name": name, **complete, **settings})


ADDED = {
    "lora": tuner("lora"),
    "lora_all_layers": tuner("lora", layers=config.LORA_LAYERS),
    "adaptformer": tuner("adaptformer"),
    "adaptformer_constant": tuner("adaptformer", scale=0.1),
    "vpt_deep": tuner("vpt"),
    "vpt_shallow": tuner("vpt", deep=False),
}
"""Tuners that add layers."""
SELECTED = {name: tuner(name) for name in ("head", "bias", "last_blocks")}
"""Tuners for any network that add no layers."""


def network(backbone: config.ImageBackbone, tuner: TunerSection | None = None, seed: int = 0) -> BackboneClassifier:
    """Return a network in float64 with the initial weights of a seed, and with a tuner if there is one."""
    built, random_state = _built(backbone, seed)
    model = copy.deepcopy(built)
    torch.set_rng_state(random_state)
    if tuner is not None:
        add_tuner(model, tuner, network_name(backbone))
    return model.double()


@functools.cache
def _built(backbone: Any, seed: int) -> tuple[BackboneClassifier, Tensor]:
    """Return a network, and the state of the random number generator after it was built."""
    create = timm.create_model
    tiny = OPTIONS.get(getattr(backbone, "model", ""), {})
    with mock.patch.object(timm, "create_model", lambda name, **options: create(name, **options, **tiny)):
        torch.manual_seed(seed)
        return build(backbone, CLASSES).double(), torch.get_rng_state()


def images(backbone: config.ImageBackbone, samples: int = 4, seed: int = 0) -> Tensor:
    """Return random images."""
    generator = torch.Generator().manual_seed(seed)
    side = backbone.image_size
    return torch.randn(samples, 3, side, side, dtype=torch.float64, generator=generator)


def randomise(model: BackboneClassifier, seed: int = 1) -> None:
    """Replace all parameters with random numbers, so that no update is 0 and no norm is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in model.parameters():
            values.add_(torch.randn(values.shape, dtype=values.dtype, generator=generator), alpha=0.2)


def trained(model: BackboneClassifier) -> set[str]:
    """Return the names of the parameters of the backbone that train."""
    return {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
