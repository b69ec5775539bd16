"""The study and its deviations from the paper on the report page."""

from __future__ import annotations

import yaml

from mem.config import Initial, Study
from mem.config.custom_sources import Folder
from mem.report.study_page import deviations_section, study_text


def test_the_study_on_the_page_names_no_folders_of_the_machine(mini_values):
    pixels = {name: mini_values["dataset"][name] for name in ("pixel_mean", "pixel_std", "storage")}
    folder = {"source": "folder", "name": "own", "train_folder": "train", "test_folder": "test", **pixels}
    study = Study.model_validate(mini_values | {"description": "75 heads / 3 seeds"})
    for root in ("/home/someone/pictures/", "~/data/pictures", "pictures"):
        dataset, weights = Folder.model_validate({**folder, "root": root}), Initial(weights="local-dir:/srv/vit")
        shown = yaml.safe_load(study_text(study.model_copy(update={"dataset": dataset, "initial": weights})))
        assert shown["dataset"]["root"] == ("pictures" if root == "pictures" else ".../pictures")
        assert shown["dataset"]["test_folder"] == "test"
        assert shown["initial"]["weights"] == "local-dir:.../vit"
        assert shown["description"] == "75 heads / 3 seeds"


def test_settings_that_the_paper_does_not_state_are_listed_if_there_are_some(mini, mini_values):
    section = deviations_section(mini)
    assert len(section.content) == 2
    assert "further settings open" in section.intro
    without_mem = deviations_section(Study.model_validate(mini_values | {"heads": {"ce": {"method": "ce"}}}))
    assert len(without_mem.content) == 1
    assert "open" not in without_mem.intro
