"""The schema of a study: the one source for YAML validation, the JSON schema and the config reference.

A study is one data set, one backbone, one recipe, any number of seeds and class orders, and the heads to
compare. Hyperparameters have no default: the YAML states them, so that it reads like the paper's table.
Settings annotated with `Unkeyed` say where and how a stage runs, not what it computes; they are left out of
the keys of runs (see `mem.runs`).
"""

from mem.config.backbones import VisionTransformer
from mem.config.base import Section, Unkeyed
from mem.config.data import Dataset, Digits, FashionMnist, LongTailCut, Shots
from mem.config.heads import Ce, Crt, Head, HeadTraining, Lws, Mem, Tau
from mem.config.study import Compute, StageCompute, Study
from mem.config.training import Augmentation, Decoder, Features, Finetune, Pretrain, Training

__all__ = [
    "Augmentation",
    "Ce",
    "Compute",
    "Crt",
    "Dataset",
    "Decoder",
    "Digits",
    "FashionMnist",
    "Features",
    "Finetune",
    "Head",
    "HeadTraining",
    "LongTailCut",
    "Lws",
    "Mem",
    "Pretrain",
    "Section",
    "Shots",
    "StageCompute",
    "Study",
    "Tau",
    "Training",
    "Unkeyed",
    "VisionTransformer",
]
