"""Default head settings for the Python API. A study has no such defaults: its YAML file specifies all settings.

The reading of MEM and its learning rate were chosen on Glyphs-LT (decision 0060), the other values on features of
Fashion-MNIST-LT. Use them as a starting point, and select values for your data on val.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from mem import config
from mem.config.head_training import HeadSettings
from mem.config.messages import describe_error
from mem.errors import UserError

TRAINING: Mapping[str, Any] = {
    "epochs": 10,
    "global_batch": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "sampler": "class_balanced",
}
"""Default training settings. `TRAINING_BY_METHOD` contains the settings in which a method differs."""
TRAINING_BY_METHOD: Mapping[str, Mapping[str, Any]] = {
    "ce": {"sampler": "instance"},
    "balanced_softmax": {"sampler": "instance"},
    "logit_adjusted_loss": {"sampler": "instance"},
    "mem": {"optimizer": "adamw", "lr": 3e-4},
    "group_constants": {"optimizer": "adamw", "lr": 1e-2},
    "logit_fusion": {"optimizer": "adamw", "lr": 1e-3},
    "block_classifier": {"optimizer": "adamw", "lr": 1e-3},
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "tau": {"taus": tuple(round(0.1 * i, 1) for i in range(21))},
    "logit_adjustment": {"taus": tuple(round(0.1 * i, 1) for i in range(21))},
    "logit_adjusted_loss": {"tau": 1.0},
    "mislas": {"smoothing_head": 0.3, "smoothing_tail": 0.0, "classifier_lr_factor": 0.05},
    "mem": {
        "partition": "shot",
        "input": "pooled",
        "width": 64,
        "depth": 1,
        "xi": 20.0,
        "mu": 0.0,
        "top_k": 2,
        "reo_weight": 1.0,
        "fusion_width": 32,
        "weight": "additive",
        "classifier": "trained",
        "classifier_from": "ce",
    },
    "group_constants": {"partition": "shot", "constants": "offset", "classifier_from": "ce"},
    "logit_fusion": {
        "partition": "shot",
        "top_k": 2,
        "fusion_width": 32,
        "weight": "additive",
        "classifier": "frozen",
        "classifier_from": "crt",
    },
    "block_classifier": {"input": "pooled", "width": 64, "depth": 1, "classifier_from": "crt"},
}
"""Default settings by method, except `training`."""


def methods() -> dict[str, type[HeadSettings]]:
    """Return the configuration class of each method."""
    sections = get_args(get_args(config.Head)[0])
    return {get_args(section.model_fields["method"].annotation)[0]: section for section in sections}


def head_settings(method: str | Mapping[str, Any] | config.Head) -> config.Head:
    """Return complete settings for a method name, or for a mapping that is merged over the method's defaults.

    Raises:
        UserError: The method or a setting is unknown, or a value is invalid.
    """
    if isinstance(method, config.Section):
        return method
    given = {"method": method} if isinstance(method, str) else dict(method)
    name, known = given.get("method"), methods()
    if name is None:
        raise UserError(
            f"Settings of a head: `method` is missing from {sorted(map(str, given))}. Add it, for example "
            '{"method": "mem", "xi": 50}.'
        )
    if name not in known:
        similar = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {similar[0]}?" if similar else ""
        raise UserError(f"Unknown method {name}.{hint} Available methods: {', '.join(known)}.")
    values = {**SETTINGS.get(name, {}), **given}
    if "training" in known[name].model_fields and isinstance(training := given.get("training", {}), Mapping):
        values["training"] = {**TRAINING, **TRAINING_BY_METHOD.get(name, {}), **training}
    try:
        return TypeAdapter(config.Head).validate_python(values)
    except ValidationError as error:
        problems: list[str] = []
        for detail in error.errors():
            detail["loc"] = detail["loc"][1:]  # without the method, which selects the model
            problems.append(describe_error(detail, values, {}, name, known[name]).removeprefix(f"{name}: "))
        raise UserError(f"Invalid settings of {name}: " + "; ".join(problems)) from None
