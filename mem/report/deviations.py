"""Settings in which a study differs from the paper, and settings that the paper does not state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mem.config import Experts, Finetune, Mem, Study, Training
from mem.config.finetune_variants import path_of
from mem.local_paths import without_folders
from mem.report.ablation import flatten

PRETRAIN: Mapping[str, Any] = {
    "optimizer": "adamw",
    "warmup_epochs": 40,
    "base_lr": 1.5e-4,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "mask_ratio": 0.75,
}
"""Pretraining settings from section 4.1 of the paper."""
PRETRAIN_EPOCHS = {"vit_base": 400, "convmae_base": 400, "vit_large": 800}
"""Pretraining epochs by backbone, from section 4.1."""
LOSS: Mapping[str, Any] = {
    "objective": "cross_entropy",
    "sampler": "instance",
    "cosine_scale": None,
    "experts": None,
    "tuner": "all",
}
"""Cross-entropy, instance sampling, one linear classifier and training of all parameters, as in the paper's standard
finetuning."""
FINETUNE: Mapping[str, Any] = {"epochs": 100, "warmup_epochs": 5, "weight_decay": 0.05, **LOSS}
"""Finetuning settings from section 4.1."""
FINETUNE_PLACES: Mapping[str, Any] = {**FINETUNE, "epochs": 30}
"""Finetuning settings on Places-LT: the epochs are from section 4.2.1."""
FINETUNE_RESNET152: Mapping[str, Any] = {"epochs": 30, **LOSS}
"""Finetuning settings of ResNet-152 on Places-LT, for which the paper otherwise refers to Liu et al. (2019)."""
PLACES_WEIGHTS = ("mae_finetuned_vit_base", "mae_finetuned_vit_large", "convmae_finetuned_base", "resnet152_imagenet")
"""Weights trained with the labels of full ImageNet, from which the paper starts on Places-LT (section 4.1)."""
LAYER_DECAY = "as He et al. (2022): 0.65 to 0.75"
DATASETS = ("imagenet_lt", "inat18", "places_lt")
CNN_BACKBONES = ("resnext50", "resnet152")
SHOTS = "many>100 few<20"

EQ8 = ("free", "softplus", "exp", "residual", "softmax", "sigmoid")
"""Values of MEM's `weight` that multiply the logits. Eq. 8 multiplies, without naming an activation."""
MEM: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "partition": (("shot",), "shot: strategy (1) of section 4.3"),
    "groups": ((3,), "3 (section 3.1)"),
    "weight": (EQ8, "multiplies the logits (eq. 8)"),
    "norms": (("raw",), "raw (eq. 7)"),
    "logits": (("plain",), "plain (eq. 6 and 8)"),
    "temperature": ((1.0,), "1 (eq. 8)"),
    "prior_in_loss": ((False,), "False (eq. 9)"),
    "phases": (("joint",), "joint (eq. 10)"),
    "reo_weight": ((1.0,), "1 (eq. 10)"),
    "reo_scale": (("none",), "none (eq. 10)"),
    "training.epochs": ((10,), "10 (table 5)"),
}
"""MEM settings that the paper states: the settings that agree with it, and a description of what it states."""
MEM_HINTS: Mapping[str, str] = {
    "input": "not stated; transformer blocks (section 4.3) suggest tokens",
    "width": "not stated; figure 4a varies it",
    "depth": "not stated; section 4.3 names 58.72 % for 1 block",
    "xi": "not stated; 20 to 100 in figure 4c",
    "mu": "not stated; 0 in figure 4c",
    "top_k": 'not stated ("K is a hyper-parameter")',
    "classifier_from": 'not stated; "the standard model" (section 1)',
}
"""What the paper says about MEM settings whose values it does not state."""
NOT_STATED = "not stated"


def deviations(study: Study) -> list[list[str]]:
    """Return a table of settings with the paper's value and this study's value.

    The table contains only settings that differ from the paper or that the paper does not state.
    """
    lines: list[list[str]] = []
    if study.dataset.name not in DATASETS:
        lines.append(["dataset", "ImageNet-LT, iNaturalist 2018, Places-LT", study.dataset.name])
    if study.backbone.name not in (*PRETRAIN_EPOCHS, *CNN_BACKBONES):
        lines.append(["backbone", "ViT-B, ViT-L, ConvMAE-B, ResNeXt-50, ResNet-152", study.backbone.name])
    if str(study.shots) != SHOTS:
        lines.append(["shots", SHOTS, str(study.shots)])
    lines += _start(study)
    lines += _finetunings(study)
    for name, head in study.heads.items():
        if isinstance(head, Mem) and name == _main_mem_head(study):
            lines += _modulator(name, head)
    lines.append(["heads", "trained on images", "trained on features, computed once per view"])
    return [["setting", "paper", "this study"], *without_folders(lines)]


IMPORTANCE = ("dataset", "backbone", "shots", "heads", "initial", "mem", "pretrain", "finetune")
"""Starts of settings, those first whose differences matter most for a comparison with the paper."""


def ranked_deviations(study: Study) -> tuple[list[list[str]], list[list[str]]]:
    """Return the settings that differ from the paper, and those that it does not state, most important first."""
    header, *lines = deviations(study)
    lines.sort(key=lambda line: _importance(line[0]))
    differing = [line for line in lines if NOT_STATED not in line[1]]
    return [header, *differing], [header, *(line for line in lines if NOT_STATED in line[1])]


def _importance(setting: str) -> int:
    name = "mem" if ":" in setting else setting.partition(".")[0]
    return IMPORTANCE.index(name) if name in IMPORTANCE else len(IMPORTANCE)


def _start(study: Study) -> list[list[str]]:
    """Return the differences in pretraining and initial weights."""
    if study.pretrain is not None:
        epochs = {"epochs": PRETRAIN_EPOCHS.get(study.backbone.name, "400, 800 for ViT-L")}
        lines = _differing("pretrain", flatten(study.pretrain.model_dump()), {**epochs, **PRETRAIN})
        return lines + _schedule("pretrain", study.pretrain)
    on_places, start = study.dataset.name == "places_lt", _initial_weights(study)
    if on_places and start not in PLACES_WEIGHTS:
        return [["initial", "weights finetuned on full ImageNet (section 4.1)", start or "none"]]
    if not on_places and start is not None:
        return [["initial", "pretraining on the dataset, or random weights", start]]
    if not on_places and study.backbone.name in PRETRAIN_EPOCHS:
        return [["pretrain", f"{PRETRAIN_EPOCHS[study.backbone.name]} epochs, or none in table 5", "none"]]
    return []


def _initial_weights(study: Study) -> str | None:
    """Return the name or the file of the initial weights, or None without them."""
    return None if study.initial is None else study.initial.weights or study.initial.file


def _finetunings(study: Study) -> list[list[str]]:
    """Return the differences in supervised training, for each finetuning that a head uses.

    If heads use the section `finetune`, the lines of a variant are the settings in which it differs from `finetune`.
    """
    if study.finetune is None:
        return [["finetune", "all parameters, 100 epochs (30 on Places-LT)", "none: the backbone is frozen"]]
    used = dict.fromkeys(head.finetuning for head in study.heads.values())
    lines = _finetuning(study, study.finetune, "finetune") if None in used else []
    for name in used:
        if name is None:
            continue
        section, variant = path_of(name), study.finetune_variants[name]
        lines += _changes(study, variant, section) if None in used else _finetuning(study, variant, section)
    return lines


def _follows_liu(study: Study) -> bool:
    return study.dataset.name == "places_lt" and study.backbone.name == "resnet152"


def _stated(study: Study) -> Mapping[str, Any]:
    """Return the finetuning settings that the paper states for the dataset and backbone."""
    on_places = study.dataset.name == "places_lt"
    return FINETUNE_RESNET152 if _follows_liu(study) else FINETUNE_PLACES if on_places else FINETUNE


def _finetuning(study: Study, settings: Finetune, section: str) -> list[list[str]]:
    """Return the differences between one finetuning and the paper."""
    lines = _differing(section, _comparable(settings), _stated(study))
    if not _follows_liu(study):
        lines += _schedule(section, settings)
    if settings.layer_decay == 1 and study.backbone.name not in CNN_BACKBONES:
        lines.append([f"{section}.layer_decay", LAYER_DECAY, "1 (none)"])
    return lines


def _changes(study: Study, variant: Finetune, section: str) -> list[list[str]]:
    """Return a line for each setting in which a variant differs from `finetune`."""
    assert study.finetune is not None
    base, own = _comparable(study.finetune), _comparable(variant)
    stated: dict[str, Any] = {**_stated(study)}
    stated |= {} if study.backbone.name in CNN_BACKBONES else {"layer_decay": LAYER_DECAY}
    stated |= {} if _follows_liu(study) else {"step_decay": "cosine schedule"}
    return [
        [f"{section}.{key}", _format(stated.get(key, NOT_STATED)), _format(own.get(key))]
        for key in dict.fromkeys([*own, *base])
        if own.get(key) != base.get(key)
    ]


def _comparable(settings: Finetune) -> dict[str, Any]:
    """Return the settings that affect the result, flattened.

    The objective, the experts, the tuner and the schedule are one setting each.
    """
    values = settings.model_dump(exclude={"validate_every_epochs", "objective", "experts", "tuner", "step_decay"})
    objective = {f"{key} {_format(value)}" for key, value in settings.objective if key != "name" and value is not None}
    decay = _describe_schedule(settings)
    return {
        **flatten(values),
        "objective": ", ".join([settings.objective.name, *sorted(objective)]),
        "experts": None if settings.experts is None else _describe_experts(settings.experts),
        "tuner": str(settings.tuner),
        "step_decay": "cosine schedule" if decay is None else decay,
    }


def _describe_experts(experts: Experts) -> str:
    text = f"{experts.number}, " + (f"each with its own {experts.own_from}" if experts.own_from else "nothing shared")
    return text if experts.width_factor is None else f"{text}, {experts.width_factor:g} times as wide"


def _schedule(section: str, settings: Training) -> list[list[str]]:
    decay = _describe_schedule(settings)
    return [] if decay is None else [[f"{section}.step_decay", "cosine schedule", decay]]


def _describe_schedule(settings: Training) -> str | None:
    """Describe a schedule in steps; None for the cosine schedule."""
    decay = settings.step_decay
    if decay is None:
        return None
    if decay.at_epochs is not None:
        return f"factor {decay.factor:g} at epochs {', '.join(f'{epoch:g}' for epoch in decay.at_epochs)}"
    return f"factor {decay.factor:g} every {decay.every_epochs:g} epochs"


def _modulator(name: str, head: Mem) -> Iterator[list[str]]:
    """Yield a line for each setting of MEM that departs from the paper or that the paper does not state.

    The settings are those of the section `Mem`, so that a new setting is in the table.
    """
    for key, value in flatten(head.model_dump(mode="json", exclude=set(head.without_effect()))).items():
        if key in ("method", "finetuning") or value is None:
            continue
        agreeing, text = MEM.get(key, ((), MEM_HINTS.get(key, NOT_STATED)))
        if key == "weight" and value in agreeing:
            yield [f"{name}: {key}", f"{text}; its activation is not stated", _format(value)]
        elif value not in agreeing:
            yield [f"{name}: {key}", text, _format(value)]


def _main_mem_head(study: Study) -> str | None:
    names = [name for name, head in study.heads.items() if isinstance(head, Mem)]
    return "mem" if "mem" in names else next(iter(names), None)


def _differing(section: str, used: Mapping[str, Any], stated: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{section}.{key}", _format(value), _format(used[key])]
        for key, value in stated.items()
        if key in used and used[key] != value
    ]


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_format, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
