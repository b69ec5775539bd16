"""The study schema, from which YAML validation, the JSON schema and the settings reference are generated.

A study is a dataset, a backbone, a recipe, any number of seeds and class orders, and the heads to compare.
Hyperparameters have no defaults: the YAML file specifies all of them, like the hyperparameter table of a paper.
Settings annotated with `Unkeyed` control where and how a stage runs, but not what it computes; these settings are not
part of run keys (see `mem.runs.keys`).
"""

from mem.config.backbones import (
    Backbone,
    ConvMae,
    CustomModule,
    ImageBackbone,
    NoBackbone,
    TimmNetwork,
    VisionTransformer,
)
from mem.config.base import Section, Unkeyed
from mem.config.control_heads import BlockClassifier, GroupConstants, LogitFusion
from mem.config.custom_sources import Folder, Lists, Table
from mem.config.data import Holdout, ImageData, LongTailCut, Selection, SetAside, Shots
from mem.config.feature_files import FeatureFiles
from mem.config.glyphs import Glyphs
from mem.config.head_training import HeadTraining
from mem.config.heads import (
    BalancedSoftmax,
    Ce,
    Crt,
    Head,
    LogitAdjustedLoss,
    LogitAdjustment,
    Lws,
    Mem,
    Ncm,
    Tau,
    uses_shots,
    uses_tokens,
)
from mem.config.initial import OFFICIAL, Initial, OfficialWeights
from mem.config.sources import Cifar10, Cifar100, Dataset, Digits, FashionMnist, ImageNetLt, INaturalist2018, PlacesLt
from mem.config.starts import LINEAR, classifier_from, ordered_heads, start_of, starts_optionally
from mem.config.study import Compute, StageCompute, Study
from mem.config.sweeps import Sweep
from mem.config.training import Augmentation, Decoder, Features, Finetune, Pretrain, RandAugment, Training

__all__ = [
    "LINEAR",
    "OFFICIAL",
    "Augmentation",
    "Backbone",
    "BalancedSoftmax",
    "BlockClassifier",
    "Ce",
    "Cifar10",
    "Cifar100",
    "Compute",
    "ConvMae",
    "Crt",
    "CustomModule",
    "Dataset",
    "Decoder",
    "Digits",
    "FashionMnist",
    "FeatureFiles",
    "Features",
    "Finetune",
    "Folder",
    "Glyphs",
    "GroupConstants",
    "Head",
    "HeadTraining",
    "Holdout",
    "INaturalist2018",
    "ImageBackbone",
    "ImageData",
    "ImageNetLt",
    "Initial",
    "Lists",
    "LogitAdjustedLoss",
    "LogitAdjustment",
    "LogitFusion",
    "LongTailCut",
    "Lws",
    "Mem",
    "Ncm",
    "NoBackbone",
    "OfficialWeights",
    "PlacesLt",
    "Pretrain",
    "RandAugment",
    "Section",
    "Selection",
    "SetAside",
    "Shots",
    "StageCompute",
    "Study",
    "Sweep",
    "Table",
    "Tau",
    "TimmNetwork",
    "Training",
    "Unkeyed",
    "VisionTransformer",
    "classifier_from",
    "ordered_heads",
    "start_of",
    "starts_optionally",
    "uses_shots",
    "uses_tokens",
]
