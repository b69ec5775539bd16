"""The key encoder and the queue: training as in the official code, the order of the queue, skipped steps and state."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from mem.config import Contrast, PacoObjective, TimmNetwork, VisionTransformer
from mem.distributed import SINGLE_PROCESS
from mem.errors import UserError
from mem.models.backbones import BackboneClassifier, build
from mem.models.batch_norm import SampleBatchNorm, keep_batch_norm_statistics, update_batch_norm_statistics
from mem.models.contrastive_classifier import ContrastiveClassifier
from mem.objectives.base import Targets
from mem.objectives.paco import Paco
from mem.objectives.projections import Projections
from mem.train.optimizers import adamw
from mem.train.state import TrainState
from tests.conftest import REPOSITORY
from tests.objectives.golden import contrastive_recipe as recipe

GOLDEN = json.loads((REPOSITORY / "tests" / "objectives" / "golden" / "contrastive.json").read_text())
VIT = VisionTransformer(name="v", kind="vit", image_size=8, patch_size=4, width=8, depth=1, heads=2, center_crop=1.0)


def contrast(queue: int = 12, *, norm: bool = False, momentum: float = 0.9) -> Contrast:
    return Contrast(queue=queue, width=recipe.WIDTH, temperature=0.2, momentum=momentum, projector_norm=norm)


class Small(BackboneClassifier):
    """The network of the recorded training: one layer and a linear classifier."""

    width, tokens, layers, head_prefix = recipe.FEATURES, 0, 1, "classifier."

    def __init__(self) -> None:
        layer = nn.Linear(3 * recipe.SIDE**2, recipe.FEATURES)
        super().__init__(nn.ModuleDict({"layer": layer, "classifier": nn.Linear(recipe.FEATURES, recipe.CLASSES)}))

    @property
    def linear(self) -> nn.Linear:
        linear = self.backbone.get_submodule("classifier")
        assert isinstance(linear, nn.Linear)
        return linear

    def features(self, images):
        pooled = self.backbone.get_submodule("layer")(images.flatten(1))
        return pooled, pooled[:, :0, None]

    def layer_of(self, parameter: str) -> int:
        return 0


def weights_of(classifier: BackboneClassifier, projector: nn.Module) -> dict[str, torch.Tensor]:
    return dict(classifier.backbone.named_parameters()) | {
        name: value for name, value in projector.named_parameters() if not name.startswith("norm")
    }


def test_three_steps_of_paco_equal_those_of_the_official_code():
    """The official key encoder is updated before a step, here after it. The queue is full from the start."""
    objective = PacoObjective(
        name="paco",
        sample_weight=recipe.PACO["sample_weight"],
        contrast=contrast(recipe.QUEUE, norm=True, momentum=recipe.MOMENTUM),
    )
    model = ContrastiveClassifier(Small(), objective.contrast, recipe.BATCH).double()
    # The official hidden layer has a bias, which BatchNorm removes.
    start = {name: torch.from_numpy(value) for name, value in recipe.weights().items() if name != "hidden.bias"}
    trained = weights_of(model.classifier, model.projectors[0])
    averaged = weights_of(model.key_classifier, model.key_projectors[0])
    assert trained.keys() == averaged.keys() == start.keys()
    with torch.no_grad():
        for name, value in start.items():
            trained[name].copy_(value)
            averaged[name].copy_(value)
        model.get_buffer("queue").copy_(torch.from_numpy(recipe.queue()))
        model.get_buffer("queue_labels").copy_(torch.tensor(recipe.QUEUE_LABELS))
    loss = Paco(np.array(recipe.COUNTS), objective)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=recipe.LEARNING_RATE)
    model.train()
    for step, expected in enumerate(GOLDEN["training"]):
        labels = torch.tensor(recipe.LABELS[step])
        for name in start.keys() & expected["key_weights"].keys():
            value = torch.tensor(expected["key_weights"][name]).double()
            torch.testing.assert_close(averaged[name].detach(), value, rtol=1e-6, atol=1e-6)
        logits, queries, keys = model(*(torch.from_numpy(recipe.images(step, view)) for view in (0, 1)))
        queue = model.get_buffer("queue"), model.get_buffer("queue_labels")
        value = loss(logits, Targets(labels, projections=Projections(queries, 0, queries, keys, labels, *queue))).mean()
        assert float(value.detach()) == pytest.approx(expected["value"], rel=1e-6)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        model.keep_keys(keys, labels)
        model.end_step()
        for name in start:
            value = torch.tensor(expected["weights"][name]).double()
            torch.testing.assert_close(trained[name].detach(), value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(queue[0], torch.tensor(expected["queue"]).double(), rtol=1e-6, atol=1e-6)
        assert queue[1].tolist() == expected["queue_labels"]
        assert int(model.get_buffer("queue_position")) == expected["position"]


def vit(queue: int = 12) -> ContrastiveClassifier:
    torch.manual_seed(0)
    return ContrastiveClassifier(build(VIT, 3), contrast(queue), 4)


def add_keys(model: ContrastiveClassifier, first: int, count: int, skipped: torch.Tensor | None = None) -> None:
    """End a step with keys whose elements are `first`, `first + 1`, ..., and the labels of the same values."""
    values = torch.arange(first, first + count)
    model.keep_keys(values[:, None].float().expand(-1, recipe.WIDTH), values)
    model.end_step(skipped)


def test_the_queue_starts_empty_and_replaces_its_oldest_keys():
    model = vit(queue=6)
    labels, queue = model.get_buffer("queue_labels"), model.get_buffer("queue")
    assert labels.tolist() == [-1] * 6
    add_keys(model, 0, 4)
    assert labels.tolist() == [0, 1, 2, 3, -1, -1]
    add_keys(model, 4, 4)
    assert labels.tolist() == [6, 7, 2, 3, 4, 5]
    assert torch.equal(queue[:, 0], labels.float())
    assert int(model.get_buffer("queue_position")) == 2


@pytest.mark.parametrize("norm", [False, True])
def test_a_skipped_step_changes_neither_the_key_encoder_nor_the_queue(norm):
    torch.manual_seed(0)
    model = ContrastiveClassifier(build(VIT, 3), contrast(norm=norm), 4).train()
    add_keys(model, 0, 4)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(1)
    before = copy.deepcopy(model.state_dict())
    images = torch.full((4, 3, 8, 8), torch.nan)
    numbers = torch.zeros(4, model.branches) if model.branches else None
    _, _, keys = model(images, images, numbers, numbers)
    assert keys.isnan().any()
    keep_batch_norm_statistics(model)
    model.keep_keys(keys, torch.zeros(4, dtype=torch.int64))
    skipped = torch.tensor(True)
    update_batch_norm_statistics(model, SINGLE_PROCESS, skipped)
    model.end_step(skipped)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    add_keys(model, 4, 4, skipped=torch.tensor(False))
    assert model.get_buffer("queue_labels").tolist() == [0, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1, -1]
    changed = model.state_dict()["key_classifier.backbone.head.weight"]
    assert not torch.equal(changed, before["key_classifier.backbone.head.weight"])


def test_a_flag_that_is_not_set_changes_no_byte():
    plain, flagged = vit(), vit()
    for model, flag in ((plain, None), (flagged, torch.tensor(False))):
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.mul_(0.7)
        add_keys(model, 0, 4, flag)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(flagged.state_dict()[name], value, rtol=1e-6, atol=0)


def test_gradients_reach_the_classifier_and_the_projector_but_not_the_key_encoder():
    model = vit()
    logits, queries, keys = model(torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8))
    assert not keys.requires_grad
    (logits.sum() + queries.sum()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("key_")), name


def test_each_encoder_has_its_own_random_numbers_for_stochastic_depth():
    torch.manual_seed(0)
    model = ContrastiveClassifier(build(VIT.model_copy(update={"depth": 2}), 3, drop_path=0.5), contrast(), 4).train()
    views, drop, keep = torch.randn(4, 3, 8, 8), torch.zeros(4, model.branches), torch.ones(4, model.branches)
    _, queries, keys = model(views, views, keep, keep)
    for numbers, query_is_equal, key_is_equal in (((keep, drop), True, False), ((drop, keep), False, True)):
        _, found_queries, found_keys = model(views, views, *numbers)
        assert torch.allclose(found_queries, queries) == query_is_equal
        assert torch.allclose(found_keys, keys) == key_is_equal


def state_of(model: ContrastiveClassifier) -> TrainState:
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    return TrainState(model, adamw(groups, (0.9, 0.999)), ema_decay=0.9)


def test_the_state_contains_everything_and_the_average_only_the_classifier():
    model = vit()
    state = state_of(model)
    add_keys(model, 0, 4)
    snapshot = copy.deepcopy(state.snapshot())
    names = set(snapshot["model"])
    assert {"queue", "queue_labels", "queue_position"} <= names
    for prefix in ("classifier.", "projectors.", "key_classifier.", "key_projectors."):
        assert any(name.startswith(prefix) for name in names)
    assert snapshot["ema"].keys() == model.classifier.state_dict().keys()
    assert isinstance(state.evaluated_model, BackboneClassifier)
    other = vit()
    state_of(other).restore(snapshot)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_the_trained_classifier_is_evaluated_and_saved_not_the_key_encoder():
    model = vit()
    optimizer = state_of(model).optimizer
    assert TrainState(model, optimizer).evaluated_model is model.classifier


def test_keys_depend_on_the_batch_norm_groups_of_the_second_views():
    """A group of BatchNorm of the key encoder contains consecutive second views."""
    torch.manual_seed(0)
    backbone = TimmNetwork(name="c", kind="timm", model="resnet10t", image_size=16, norm_batch=2, center_crop=1.0)
    model = ContrastiveClassifier(build(backbone, 3), contrast(norm=True), 2).train()
    assert model.has_norm_groups(4) and not model.has_norm_groups(2)
    norms = [m.norm_batch for m in model.modules() if isinstance(m, SampleBatchNorm)]
    assert set(norms) == {2}
    views = torch.randn(4, 3, 16, 16)
    keys = [model(views, views[order])[2] for order in ([0, 1, 2, 3], [2, 3, 0, 1], [0, 2, 1, 3])]
    torch.testing.assert_close(keys[1], keys[0][[2, 3, 0, 1]])
    assert not torch.allclose(keys[2], keys[0][[0, 2, 1, 3]])


def test_a_projector_that_normalises_single_samples_is_rejected():
    with pytest.raises(UserError, match=r"objective\.contrast\.projector_norm: .*but they contain 1\."):
        ContrastiveClassifier(build(VIT, 3), contrast(norm=True), 1)
