"""The plan of a contrastive objective contains the second view, the projector, the key encoder and the queue."""

from __future__ import annotations

import copy

import pytest

from mem.config import Study
from mem.errors import UserError
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates
from mem.plan.model_costs import classifier_cost, contrastive_cost
from mem.plan.text import estimate_study
from tests.objectives.contrastive import PACO


def study_of(mini_values: dict, objective: object) -> Study:
    values = copy.deepcopy(mini_values)
    values["finetune"] |= {"objective": objective, "label_smoothing": 0.0}
    values["heads"] = {"head": {"method": "ce" if objective == "cross_entropy" else "finetuned"}}
    return Study.model_validate(values)


def test_the_cost_contains_the_forward_pass_of_the_key_encoder_and_all_parameters(mini_values):
    study = study_of(mini_values, PACO)
    assert study.finetune is not None and study.finetune.contrast is not None
    plain = classifier_cost(study, study.finetune, 10).cost
    found = contrastive_cost(study, study.finetune, 10)
    width, projection, queue = 16, study.finetune.contrast.width, study.finetune.contrast.queue
    # A hidden layer without bias, BatchNorm, and an output layer.
    projector = width * width + 2 * width + width * projection + projection
    assert found.trained_parameters == plain.trained_parameters + projector
    assert found.parameters == 2 * (plain.parameters + projector) + queue * projection
    products = 2 * (width * width + width * projection)
    linear = 2 * width * 10  # the key encoder has a classifier, but does not use it
    assert found.training_flops == pytest.approx(plain.training_flops + plain.forward_flops - linear + 4 * products)
    assert found.activation_bytes > plain.activation_bytes


def finetune_estimate(values: dict, objective: object, **finetune: object) -> Estimate:
    study = study_of(values | {"finetune": values["finetune"] | finetune}, objective)
    return next(e for e in estimate_study(study, {}, Rates(core_gflops=50))[1] if e.run.stage == "finetune")


def test_validation_and_the_saved_files_need_only_the_classifier(mini_values):
    def hours_of_validation(objective: object) -> float:
        often, once = (finetune_estimate(mini_values, objective, validate_every_epochs=n) for n in (1, 100))
        return often.hours - once.hours

    assert hours_of_validation(PACO) == pytest.approx(hours_of_validation("cross_entropy"))
    plain, paco = (finetune_estimate(mini_values, objective).disk for objective in ("cross_entropy", PACO))
    assert paco.final_bytes == plain.final_bytes


def test_a_moving_average_contains_only_the_classifier(mini_values):
    def size_of_average(objective: object) -> float:
        with_average, without = (finetune_estimate(mini_values, objective, ema_decay=d).disk for d in (0.99, None))
        return with_average.running_bytes - without.running_bytes

    assert size_of_average(PACO) == size_of_average("cross_entropy") > 0


def test_more_hard_classes_than_classes_are_found_by_the_plan(mini_values):
    values = copy.deepcopy(mini_values)
    values["features"]["tokens"] = False
    ncl = {"name": "ncl", "hard_classes": 11, "mutual_weight": 0.6}
    message = r"^finetune\.objective\.hard_classes is 11, but the dataset has 10 classes; expected at most that many"
    with pytest.raises(UserError, match=message):
        finetune_estimate(values, ncl, experts={"number": 2})


def test_the_contrast_of_any_objective_requires_the_complete_batch(mini_values):
    values = copy.deepcopy(mini_values)
    values["features"]["tokens"] = False
    ncl = {"name": "ncl", "hard_classes": 3, "mutual_weight": 0.6}
    with_contrast = ncl | {"contrast": PACO["contrast"], "contrast_weight": 1.0}
    found = [finetune_estimate(values, each, experts={"number": 2}).undivided for each in (ncl, with_contrast)]
    assert found == [False, True]
