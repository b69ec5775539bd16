"""The study schema, from which YAML validation, the JSON schema and the settings reference are generated.

A study is a dataset, a backbone, a recipe, any number of seeds and class orders, and the heads to compare.
Hyperparameters have no defaults: the YAML file specifies all of them, like the hyperparameter table of a paper.
Settings annotated with `Unkeyed` control where and how a stage runs, but not what it computes; these settings are not
part of run keys (see `mem.runs.keys`).
"""

from mem.config.adapt import Adapt
from mem.config.augmentation import Augmentation, Blur, RandAugment
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
from mem.config.class_embeddings import (
    ClassEmbeddings,
    ClassMeans,
    EmbeddingsFile,
    InitialClassifier,
    TextEmbeddings,
    ZeroShot,
)
from mem.config.compute import Compute, StageCompute
from mem.config.contrastive_objectives import Contrast, PacoObjective
from mem.config.control_heads import BlockClassifier, GroupConstants, LogitFusion
from mem.config.custom_sources import Folder, Lists, Table
from mem.config.data import GroupBy, Holdout, ImageData, LongTailCut, Selection, SetAside, Shots
from mem.config.evaluation import Crops, Evaluate
from mem.config.expert_objectives import AceObjective, NclObjective, RideObjective, SadeObjective
from mem.config.experts import Experts
from mem.config.feature_files import FeatureFiles
from mem.config.glyphs import Glyphs
from mem.config.head_training import HeadTraining
from mem.config.heads import (
    BalancedSoftmax,
    Ce,
    Crt,
    Ensemble,
    Finetuned,
    Head,
    LogitAdjustedLoss,
    LogitAdjustment,
    Lws,
    Mem,
    Mislas,
    Ncm,
    RideRouter,
    SadeAggregation,
    Tau,
    is_per_expert,
    uses_shots,
    uses_tokens,
)
from mem.config.initial import OFFICIAL, Initial, OfficialWeights
from mem.config.objective_section import MarginObjective
from mem.config.objectives import (
    BalancedBceObjective,
    BalancedSoftmaxObjective,
    ClassBalancedObjective,
    CrossEntropyObjective,
    FocalObjective,
    LadeObjective,
    LdamObjective,
    LogitAdjustmentObjective,
    Objective,
)
from mem.config.sources import Cifar10, Cifar100, Dataset, Digits, FashionMnist, ImageNetLt, INaturalist2018, PlacesLt
from mem.config.starts import LINEAR, classifier_from, is_linear, ordered_heads, start_of, starts_optionally
from mem.config.study import Study
from mem.config.sweeps import Sweep
from mem.config.training import Decoder, Features, Finetune, Pretrain, Training
from mem.config.tuners import (
    LORA_LAYERS,
    AdaptFormerTuner,
    AllParameters,
    BatchNormTuner,
    BiasTuner,
    HeadTuner,
    LastBlocksTuner,
    LastStageTuner,
    LoraTuner,
    Tuner,
    VptTuner,
)

__all__ = [
    "LINEAR",
    "LORA_LAYERS",
    "OFFICIAL",
    "AceObjective",
    "Adapt",
    "AdaptFormerTuner",
    "AllParameters",
    "Augmentation",
    "Backbone",
    "BalancedBceObjective",
    "BalancedSoftmax",
    "BalancedSoftmaxObjective",
    "BatchNormTuner",
    "BiasTuner",
    "BlockClassifier",
    "Blur",
    "Ce",
    "Cifar10",
    "Cifar100",
    "ClassBalancedObjective",
    "ClassEmbeddings",
    "ClassMeans",
    "Compute",
    "Contrast",
    "ConvMae",
    "Crops",
    "CrossEntropyObjective",
    "Crt",
    "CustomModule",
    "Dataset",
    "Decoder",
    "Digits",
    "EmbeddingsFile",
    "Ensemble",
    "Evaluate",
    "Experts",
    "FashionMnist",
    "FeatureFiles",
    "Features",
    "Finetune",
    "Finetuned",
    "FocalObjective",
    "Folder",
    "Glyphs",
    "GroupBy",
    "GroupConstants",
    "Head",
    "HeadTraining",
    "HeadTuner",
    "Holdout",
    "INaturalist2018",
    "ImageBackbone",
    "ImageData",
    "ImageNetLt",
    "Initial",
    "InitialClassifier",
    "LadeObjective",
    "LastBlocksTuner",
    "LastStageTuner",
    "LdamObjective",
    "Lists",
    "LogitAdjustedLoss",
    "LogitAdjustment",
    "LogitAdjustmentObjective",
    "LogitFusion",
    "LongTailCut",
    "LoraTuner",
    "Lws",
    "MarginObjective",
    "Mem",
    "Mislas",
    "NclObjective",
    "Ncm",
    "NoBackbone",
    "Objective",
    "OfficialWeights",
    "PacoObjective",
    "PlacesLt",
    "Pretrain",
    "RandAugment",
    "RideObjective",
    "RideRouter",
    "SadeAggregation",
    "SadeObjective",
    "Section",
    "Selection",
    "SetAside",
    "Shots",
    "StageCompute",
    "Study",
    "Sweep",
    "Table",
    "Tau",
    "TextEmbeddings",
    "TimmNetwork",
    "Training",
    "Tuner",
    "Unkeyed",
    "VisionTransformer",
    "VptTuner",
    "ZeroShot",
    "classifier_from",
    "is_linear",
    "is_per_expert",
    "ordered_heads",
    "start_of",
    "starts_optionally",
    "uses_shots",
    "uses_tokens",
]
