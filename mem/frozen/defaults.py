"""Settings for heads that are asked for by the method's name alone, from Python. A study's YAML states its own.

They are a start, made on Fashion-MNIST-LT's features: what suits yours is chosen on val.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from mem import config
from mem.errors import UserError

TRAINING: Mapping[str, Any] = {
    "epochs": 10,
    "global_batch": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "sampler": "class_balanced",
}
"""Of every head that learns; by method there are `DIFFERENCES`."""
DIFFERENCES: Mapping[str, Mapping[str, Any]] = {
    "ce": {"sampler": "instance"},
    "balanced_softmax": {"sampler": "instance"},
    "logit_adjusted_loss": {"sampler": "instance"},
    "mem": {"optimizer": "adamw", "lr": 1e-3},
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "tau": {"taus": tuple(round(0.1 * i, 1) for i in range(21))},
    "logit_adjustment": {"taus": tuple(round(0.1 * i, 1) for i in range(21))},
    "logit_adjusted_loss": {"tau": 1.0},
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
        "classifier": "frozen",
        "classifier_from": "crt",
    },
}
"""By method, beside `training`."""


def methods() -> dict[str, type[config.Section]]:
    """Section of each method that there is."""
    sections = get_args(get_args(config.Head)[0])
    return {get_args(section.model_fields["method"].annotation)[0]: section for section in sections}


def head_settings(method: str | Mapping[str, Any] | config.Head) -> config.Head:
    """Whole settings from a method's name, or from some settings laid over those of the method.

    Raises:
        UserError: There is no such method or setting.
    """
    if isinstance(method, config.Section):
        return method
    given = {"method": method} if isinstance(method, str) else dict(method)
    name, known = given.get("method"), methods()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"There is no method {name}{hint} There are {', '.join(known)}")
    values = {**SETTINGS.get(name, {}), **given}
    if "training" in known[name].model_fields and isinstance(own := given.get("training", {}), Mapping):
        values["training"] = {**TRAINING, **DIFFERENCES.get(name, {}), **own}
    try:
        return TypeAdapter(config.Head).validate_python(values)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc'][1:])) or name}: {e['msg']}" for e in error.errors())
        raise UserError(f"Settings of {name}: " + "; ".join(faults)) from None
