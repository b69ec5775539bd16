"""Settings that the branch `select` of a study chose on held-out images, for the branch `refit`."""

from __future__ import annotations

from mem import config
from mem.errors import UserError
from mem.jobs.job import Job
from mem.runs.folder import read_record


def with_selected_tau(settings: config.Head, job: Job) -> config.Head:
    """Return the settings of a head, in which tau is the value of the job's input `selection`, if it has this input.

    Raises:
        UserError: The run of the input is not finished, or it selected no tau.
    """
    if "selection" not in job.inputs:
        return settings
    assert isinstance(settings, config.Tau | config.LogitAdjustment)
    folder = job.inputs["selection"]
    tau = read_record(folder)["results"].get("tau")
    if tau not in settings.taus:
        raise UserError(
            f"{folder}: expected a run that selected one of {len(settings.taus)} values of tau, found {tau}. Delete "
            "the folder and run the study again."
        )
    job.say(f"tau is {tau:g}, which {folder} selected on held-out training images.")
    return settings.model_copy(update={"taus": (tau,)})
