"""Loss and gradients, compared with golden tensors of the official code (see golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mem.config import ConvMae, Decoder, VisionTransformer
from mem.models.autoencoder import Autoencoder
from mem.models.mae import ConvMaskedAutoencoder, MaskedAutoencoder
from tests.models.golden import recipe

GOLDEN = Path(__file__).parent / "golden"


def built(name: str) -> Autoencoder:
    decoder = Decoder(**recipe.DECODER)
    if name == "mae":
        settings = VisionTransformer(name="v", kind="vit", center_crop=0.875, **recipe.VIT)
        model: Autoencoder = MaskedAutoencoder(settings, decoder, 0.75, norm_pix_loss=True)
    else:
        convmae = ConvMae(name="c", kind="convmae", center_crop=0.875, **recipe.CONVMAE)
        model = ConvMaskedAutoencoder(convmae, decoder, 0.75, norm_pix_loss=True)
    recipe.fill((official(n), p) for n, p in model.named_parameters())
    return model


def official(name: str) -> str:
    """Return a parameter's name in the official code, in which one module contains the encoder and the decoder."""
    return name.removeprefix("encoder.")


@pytest.fixture(scope="module", params=["mae", "convmae"])
def both(request) -> tuple[Autoencoder, float, dict[str, Any]]:
    model = built(request.param)
    loss = model(recipe.images(), recipe.noise()).mean()
    loss.backward()
    return model, float(loss.detach()), json.loads((GOLDEN / f"{request.param}.json").read_text())


def test_the_same_patches_are_visible(both):
    model, _, golden = both
    visible = recipe.noise().argsort(dim=1)[:, : model.visible_patches]
    assert [sorted(row.tolist()) for row in visible] == golden["visible"]


def test_the_loss_equals_that_of_the_official_code(both):
    _, loss, golden = both
    assert loss == pytest.approx(golden["loss"], rel=1e-5)


def test_every_trained_parameter_has_the_official_name_and_shape(both):
    model, _, golden = both
    ours = {official(n): list(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    assert ours == {name: entry["shape"] for name, entry in golden["gradients"].items()}


def differing(model: Autoencoder, golden: dict[str, Any]) -> list[str]:
    """Return the parameters whose gradient differs from the recording by more than 1e-5 of its norm or largest value.

    Rounding to float32 causes differences of about 1e-6, even if this project's model runs in float64 and only the
    recording is rounded. The tolerance is ten times larger, so the outcome does not depend on the processor.
    """
    gradients = {official(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
    found = []
    for name, ours in recipe.summary(gradients).items():
        recorded = golden["gradients"][name]
        same = (
            ours["norm"] == pytest.approx(recorded["norm"], rel=1e-5)
            and ours["largest"] == pytest.approx(recorded["largest"], rel=1e-5)
            and ours["values"] == pytest.approx(recorded["values"], rel=0, abs=1e-5 * recorded["largest"])
        )
        found += [] if same else [name]
    return found


def test_every_gradient_equals_that_of_the_official_code(both):
    model, _, golden = both
    assert differing(model, golden) == []


def test_the_comparison_detects_a_wrong_epsilon():
    """In ConvMAE, the norms of stages 1 and 2 have a different epsilon from the norms of stage 3."""
    model = built("convmae")
    for block in [*model.encoder.blocks1, *model.encoder.blocks2]:
        block.norm1.eps = 1e-4
    model(recipe.images(), recipe.noise()).mean().backward()
    golden = json.loads((GOLDEN / "convmae.json").read_text())
    assert "blocks1.0.norm1.weight" in differing(model, golden)
