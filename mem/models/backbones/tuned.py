"""Tuners of a backbone with a classifier: layers that they add, and the parameters that train."""

from __future__ import annotations

import copy

from mem import config
from mem.config.tuners import ALL_PARAMETERS, TunerSection
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier
from mem.models.batch_norm import SampleBatchNorm
from mem.models.tuners.adaptformer import add_adaptformer
from mem.models.tuners.lora import add_lora, merge_lora
from mem.models.tuners.prompts import add_prompts


def add_tuner(model: BackboneClassifier, tuner: TunerSection, name: str) -> None:
    """Add the layers of a tuner to a backbone, and choose the parameters that train, in place.

    Call this after pretrained weights have been loaded. New parameters draw their initial values from PyTorch's global
    random number generator, after those of the network. The parameters of the network keep their names and values.
    Apart from VPT, whose prompts take part in the attention, the outputs remain the same.

    Args:
        model: The backbone with its classifier.
        tuner: Settings of the tuner.
        name: Name of the network in error messages.

    Raises:
        UserError: The network does not have the layers that the tuner requires.
    """
    if isinstance(tuner, config.AllParameters):
        return
    before = {parameter for parameter, _ in model.backbone.named_parameters()}
    match tuner:
        case config.LoraTuner():
            add_lora(model.backbone, tuner, name)
        case config.AdaptFormerTuner():
            add_adaptformer(model.backbone, tuner, name)
        case config.VptTuner():
            add_prompts(model.backbone, tuner, name)
    model.tuner = tuner
    model.number_layers()
    trained = _trained(model, tuner, name) | _new_layers(model)
    for parameter, values in model.backbone.named_parameters():
        chosen = parameter in trained or parameter not in before
        values.requires_grad_(chosen and values.requires_grad)


def merged(model: BackboneClassifier) -> BackboneClassifier:
    """Return a copy of a trained classifier without the layers of its tuner, which computes the same.

    LoRA's updates are added to the weights of their layers. Other tuners without added layers need no change.

    Raises:
        UserError: The tuner's layers are not linear, so that no weights of the original network compute the same.
    """
    if model.tuner.adds_layers and not isinstance(model.tuner, config.LoraTuner):
        raise UserError(
            f"The layers of the tuner `{model.tuner}` cannot be merged into the weights of the network, because they "
            "are not linear. Use the network with its tuner (`mem export` without `--format timm`), or finetune with "
            "lora."
        )
    model = copy.deepcopy(model)
    merge_lora(model.backbone)
    model.tuner = ALL_PARAMETERS
    model.number_layers()
    return model


def parameter_counts(model: BackboneClassifier) -> tuple[int, int]:
    """Return the number of parameters that train, and of all parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _new_layers(model: BackboneClassifier) -> set[str]:
    """Return the parameters that pretrained weights lack: the classifier, and a new norm or neck."""
    new = (*model.classifier_prefixes, *model.missing_in_encoder)
    return {name for name, _ in model.backbone.named_parameters() if name.startswith(new)}


def _trained(model: BackboneClassifier, tuner: TunerSection, name: str) -> set[str]:
    """Return the parameters of the network that a tuner trains, besides new layers and the layers that it adds.

    Raises:
        UserError: The network does not have the layers that the tuner requires.
    """
    parameters = (parameter for parameter, _ in model.backbone.named_parameters())
    names = {parameter for parameter in parameters if not parameter.startswith(model.other_classifiers)}
    match tuner:
        case config.BiasTuner():
            # EVA and BEiT name the biases of queries and values q_bias and v_bias.
            trained = {parameter for parameter in names if parameter.rpartition(".")[2].endswith("bias")}
            missing = "has no biases"
        case config.LastBlocksTuner():
            if tuner.blocks >= model.layers:
                raise UserError(
                    f"finetune.tuner.blocks ({tuner.blocks}): {name} has {model.layers - 1} blocks. Use a smaller "
                    "number, or the tuner all."
                )
            return {parameter for parameter in names if model.layer_of(parameter) >= model.layers - tuner.blocks}
        case config.LastStageTuner():
            trained = names & model.last_stage()
            missing = "does not consist of stages; use last_blocks"
        case config.BatchNormTuner():
            norms = [n for n, m in model.backbone.named_modules() if isinstance(m, SampleBatchNorm)]
            trained = {f"{norm}.{leaf}" for norm in norms for leaf in ("weight", "bias")} & names
            missing = "has no BatchNorm layers"
        case _:
            return set()
    if not trained - _new_layers(model):
        raise UserError(f"finetune.tuner: `{tuner}` is not available, because {name} {missing}.")
    return trained
