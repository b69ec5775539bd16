"""Record LIFT's cosine classifier with its loss, and the initial weights of the classifier. See README.md.

python -m tests.models.golden.record_classifier --checkouts FOLDER --out FILE
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from tests.models.golden import classifier_recipe as recipe
from tests.recording import checkouts_and_output, load, write

LIFT = "LIFT"
METHODS = ("init_head_text_feat", "init_head_class_mean")
"""Methods of LIFT's `Trainer`, whose module requires a GPU's libraries and data sets."""


def main() -> None:
    """Run the official code, and write one file."""
    checkouts, out = checkouts_and_output(__doc__)
    checkout = checkouts / LIFT
    trainer = _methods(checkout / "trainer.py")
    values = {
        "training": _training(load(checkout / "models" / "classifiers.py"), load(checkout / "utils" / "losses.py")),
        "text": {mode: _text(trainer, mode).tolist() for mode in ("default", "ensemble")},
        "class_means": _class_means(trainer).tolist(),
    }
    write(out, checkouts, (LIFT,), values)


def _training(classifiers: ModuleType, losses: ModuleType) -> dict[str, Any]:
    """Return the logits, the loss and its gradients with respect to the features and the weights."""
    layer = classifiers.CosineClassifier(recipe.WIDTH, recipe.CLASSES, torch.float64, scale=recipe.SCALE)
    layer.apply_weight(recipe.weights())
    features = recipe.features().requires_grad_()
    logits = layer(features)
    loss = losses.LogitAdjustedLoss(torch.tensor(recipe.COUNTS, dtype=torch.float64))(logits, recipe.labels())
    gradients = torch.autograd.grad(loss, (features, layer.weight))
    names = ("features", "weights")
    return {
        "logits": logits.tolist(),
        "loss": float(loss.detach()),
        "gradients": {name: each.tolist() for name, each in zip(names, gradients, strict=True)},
    }


def _text(trainer: SimpleNamespace, prompt: str) -> torch.Tensor:
    """Return the initial weights from text features. The prompts are passed to the encoder as texts."""
    given: list[torch.Tensor] = []
    network = SimpleNamespace(encode_text=recipe.text_features, image_encoder=SimpleNamespace(proj=recipe.projection()))
    this = SimpleNamespace(
        cfg=SimpleNamespace(prompt=prompt, backbone="CLIP-ViT-B/16"),
        classnames=recipe.NAMES,
        model=network,
        head=SimpleNamespace(apply_weight=given.append),
        get_tokenized_prompts=lambda names, template: [template.format(name.replace("_", " ")) for name in names],
    )
    trainer.init_head_text_feat(this)
    return given[0]


def _class_means(trainer: SimpleNamespace) -> torch.Tensor:
    """Return the initial weights from class means. The batches contain features in place of images."""
    given: list[torch.Tensor] = []
    this = SimpleNamespace(
        train_init_loader=list(zip(recipe.features().split(4), recipe.labels().split(4), strict=True)),
        device=torch.device("cpu"),
        model=lambda batch, use_tuner, return_feature: batch,
        num_classes=recipe.CLASSES,
        head=SimpleNamespace(apply_weight=given.append),
    )
    trainer.init_head_class_mean(this)
    return given[0]


def _methods(file: Path) -> SimpleNamespace:
    """Return methods of the class `Trainer` as functions, without the imports of its module."""
    tree = ast.parse(file.read_text())
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    methods = [node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name in METHODS]
    for method in methods:
        method.decorator_list = []
    names: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "tqdm": lambda values, **options: values,
        "ZEROSHOT_TEMPLATES": {"imagenet": recipe.ENSEMBLE},
    }
    exec(compile(ast.Module(methods, []), str(file), "exec"), names)
    return SimpleNamespace(**{name: names[name] for name in METHODS})


if __name__ == "__main__":
    main()
