"""Settings of control heads for tests."""

from __future__ import annotations

from mem.config import BlockClassifier, GroupConstants, HeadTraining, LogitFusion


def _training(sampler: str = "class_balanced") -> HeadTraining:
    return HeadTraining(epochs=1, global_batch=8, optimizer="adamw", lr=1e-3, weight_decay=0, sampler=sampler)


def group_constants(**changes) -> GroupConstants:
    values = {"method": "group_constants", "partition": "shot", "constants": "both", "classifier_from": "ce"}
    return GroupConstants(**{**values, "training": _training(), **changes})


def logit_fusion(sampler: str = "class_balanced", **changes) -> LogitFusion:
    values = {
        "method": "logit_fusion", "partition": "shot", "top_k": 2, "fusion_width": 4, "weight": "additive",
        "classifier": "frozen", "classifier_from": "ce",
    }  # fmt: skip
    return LogitFusion(**{**values, "training": _training(sampler), **changes})


def block_classifier(sampler: str = "class_balanced", **changes) -> BlockClassifier:
    values = {"method": "block_classifier", "input": "pooled", "width": 8, "depth": 1}
    return BlockClassifier(**{**values, "training": _training(sampler), **changes})
