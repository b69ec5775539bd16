"""Record losses and gradients of the official class-balanced loss (TensorFlow). See README.md in this folder.

python tests/objectives/golden/record_class_balanced.py --checkouts FOLDER --out FILE
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import tensorflow  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).parent))
import recipe

tf = tensorflow.compat.v1


def main() -> None:
    """Run the official losses on the inputs of the recipe, and write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkouts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    checkout = options.checkouts / "class-balanced-loss"
    file = checkout / "src" / "cifar_main.py"
    module, weights = official(file), class_weights(file)
    cases = [("softmax", 0.0), ("sigmoid", 0.0), *(("focal", gamma) for gamma in recipe.GAMMAS)]
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    content = {
        "versions": {"python": platform.python_version(), "tensorflow": tensorflow.__version__},
        "commits": {"class-balanced-loss": commit.stdout.strip()},
        "weights": weights.tolist(),
        "losses": {
            name if name != "focal" else f"focal_{gamma}": recorded(module, weights, name, gamma)
            for name, gamma in cases
        },
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


def official(file: Path) -> ModuleType:
    """Import the training script. Its imports of the data and the model are replaced: `_tower_fn` needs neither.

    The model returns its input, a variable with the logits, so that the gradient of the loss is the gradient with
    respect to the logits.
    """
    model = SimpleNamespace(forward_pass=lambda feature, input_data_format: feature)
    stubs = {name: ModuleType(name) for name in ("cifar", "cifar_utils", "data_utils")}
    network = ModuleType("cifar_model")
    network.ResNetCifar = lambda *_, **__: model  # type: ignore[attr-defined]
    module = ModuleType("cifar_main")
    with mock.patch.dict(sys.modules, {**stubs, "cifar_model": network, "tensorflow": tf}):
        exec(compile(file.read_text(), str(file), "exec"), module.__dict__)
    return module


def class_weights(file: Path) -> np.ndarray:
    """Run the statements of the function `main` that compute the class weights."""
    tree = ast.parse(file.read_text())
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    wanted = [
        node
        for node in function.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("effective_num", "weights")
    ]
    hparams = {"beta": recipe.BETA, "data_version": str(len(recipe.COUNTS))}
    names = {"np": np, "hparams": hparams, "img_num_per_cls": recipe.COUNTS}
    exec(compile(ast.Module(wanted, []), str(file), "exec"), names)
    return names["weights"]


def recorded(module: ModuleType, weights: np.ndarray, loss: str, gamma: float) -> dict[str, Any]:
    """Return the value of a loss and its gradient with respect to the logits, computed in float32."""
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable("logits", initializer=recipe.logits().astype(np.float32))
        values, gradients, _ = module._tower_fn(
            is_training=True,
            weight_decay=0.0,
            feature=variable,
            label=tf.constant(recipe.LABELS),
            data_version=str(len(recipe.COUNTS)),
            data_format=None,
            num_layers=None,
            batch_norm_decay=None,
            batch_norm_epsilon=None,
            resnet_version=None,
            loss_type=loss,
            gamma=gamma,
            weights=weights,
        )
        session.run(tf.global_variables_initializer())
        ((gradient, _),) = gradients
        value, slope = session.run([values[0], gradient])
    return {"value": float(value), "gradient": slope.tolist()}


if __name__ == "__main__":
    main()
