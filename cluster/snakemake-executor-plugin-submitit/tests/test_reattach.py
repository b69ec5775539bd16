"""Records of earlier workflow processes: which jobs are taken up, left alone or cancelled."""

from __future__ import annotations

import os
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import reattach
from snakemake_executor_plugin_submitit.paths import job_folder, submission_folder
from snakemake_executor_plugin_submitit.queries import ListedJob, QueryFailed
from snakemake_executor_plugin_submitit.reattach import ReattachedJobs
from snakemake_executor_plugin_submitit.registry import Record, Registry
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission

RUNNING = State(Kind.RUNNING, "RUNNING")
TOKEN = "20260101-120000-0123abcd"


class Cluster(Slurm):
    """A SLURM cluster with one job."""

    def __init__(self, state: State | None = RUNNING, origin: str = f"{TOKEN}|/f/job.sh", site: str = "site") -> None:
        super().__init__(print, signal_delay_seconds=120)
        self.state, self.origin, self.site = state, origin, site
        self.number: str | None = None
        self.cancelled: list[str] = []
        self.failures = 0

    def site_name(self) -> str:
        return self.site

    def listed_jobs(self, ids):
        if self.failures:
            self.failures -= 1
            raise QueryFailed("squeue: Unable to contact slurm controller")
        return {"1": ListedJob(self.state, self.origin)} if self.state and "1" in ids else {}

    def submitted_number(self, token):
        return self.number

    def cancel(self, ids):
        self.cancelled += ids
        self.state = None


class Earlier:
    """A folder in which an earlier workflow process recorded one job."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "out.txt"
        self.job = SimpleNamespace(is_group=lambda: False, output=[str(self.output)], input=[])
        self.messages: list[str] = []
        self.registry = Registry(folder / "registry")

    def record(self, number: str = "1", site: str = "site") -> None:
        record = Record("", TOKEN, 0, tasks=1, logs="logs", fingerprint="f", submitted=time.time(), cluster=site)
        self.registry.add({"key": record})
        if number:
            self.registry.set_number(TOKEN, number)

    def finished(self, age_seconds: float = 0) -> None:
        folder = submission_folder(TOKEN)
        folder.mkdir(parents=True)
        result = folder / "1_0_result.pkl"
        result.write_bytes(pickle.dumps(("success", None)))
        os.utime(result, (time.time() - age_seconds,) * 2)

    def reattach(self, cluster: Cluster, fingerprint: str = "f", latency_wait: float = 0) -> Submission | None:
        logger = SimpleNamespace(info=self.messages.append, warning=self.messages.append)
        jobs = ReattachedJobs(self.registry, cluster, logger, latency_wait=latency_wait)
        folder = job_folder("unsent", Path("logs"))
        submission = Submission(job=self.job, key="key", fingerprint=fingerprint, request=Request(), folder=folder)
        jobs.query_states([self.job])
        return submission if jobs.reattach(submission) else None


@pytest.fixture
def earlier(tmp_path, monkeypatch) -> Earlier:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reattach, "record_key", lambda job: "key")
    monkeypatch.setattr(reattach.time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))
    return Earlier(tmp_path)


def test_a_running_job_with_the_token_is_taken_up(earlier):
    earlier.record()
    submission = earlier.reattach(Cluster())
    assert submission is not None
    assert submission.job_id == "1"
    assert submission.settled is None


@pytest.mark.parametrize("fingerprint", ["f", "changed"])
def test_another_job_with_the_same_number_is_neither_taken_up_nor_cancelled(earlier, fingerprint):
    earlier.record()
    cluster = Cluster(origin="other-token|/elsewhere/job.sh")
    assert earlier.reattach(cluster, fingerprint) is None
    assert cluster.cancelled == []
    assert earlier.registry.read_all() == {}


def test_a_running_job_with_a_changed_command_is_cancelled(earlier):
    earlier.record()
    cluster = Cluster()
    assert earlier.reattach(cluster, "changed") is None
    assert cluster.cancelled == ["1"]


@pytest.mark.parametrize("fingerprint", ["f", "changed"])
def test_a_job_of_another_slurm_cluster_is_left_alone_and_not_repeated(earlier, fingerprint):
    earlier.record(site="elsewhere")
    cluster = Cluster()
    with pytest.raises(WorkflowError, match="to the SLURM cluster elsewhere, and this machine uses site") as raised:
        earlier.reattach(cluster, fingerprint)
    assert f"delete .snakemake/submitit/registry/{TOKEN}.jsonl" in str(raised.value)
    assert cluster.cancelled == []
    assert "key" in earlier.registry.read_all()


def test_a_finished_job_is_taken_up_although_no_controller_lists_it(earlier):
    earlier.record(site="elsewhere")
    earlier.finished()
    earlier.output.touch()
    submission = earlier.reattach(Cluster(state=None))
    assert submission is not None
    assert submission.settled == State(Kind.DONE, "COMPLETED")


@pytest.mark.parametrize("name", ["PREEMPTED", "TIMEOUT", "NODE_FAIL"])
def test_a_job_that_completed_while_slurm_ended_it_is_taken_up_and_not_repeated(earlier, name):
    earlier.record()
    earlier.finished()
    earlier.output.touch()
    submission = earlier.reattach(Cluster(State(Kind.FAILED, name)))
    assert submission is not None
    assert submission.settled == State(Kind.DONE, "COMPLETED")


def test_a_job_that_slurm_ended_before_it_completed_is_repeated(earlier):
    earlier.record()
    assert earlier.reattach(Cluster(State(Kind.FAILED, "PREEMPTED"))) is None


def test_a_job_whose_number_was_not_recorded_is_found_by_its_token(earlier):
    earlier.record(number="")
    cluster = Cluster()
    cluster.number = "1"
    submission = earlier.reattach(cluster)
    assert submission is not None
    assert submission.job_id == "1"
    assert earlier.registry.read_all()["key"].job_id == "1"


def test_a_submission_that_slurm_never_accepted_is_sent_again(earlier):
    earlier.record(number="")
    assert earlier.reattach(Cluster()) is None
    assert earlier.registry.read_all() == {}


def test_the_number_of_a_started_job_is_known_without_the_controller(earlier, commands):
    commands.fails("squeue", "Unable to contact slurm controller")
    folder = submission_folder(TOKEN)
    folder.mkdir(parents=True)
    (folder / "17_3_submitted.pkl").symlink_to("3.pkl")
    assert Slurm(print, signal_delay_seconds=1).submitted_number(TOKEN) == "17"


@pytest.mark.stage
@pytest.mark.parametrize("row", [f"17|{TOKEN}|(null)", f"17||/f/submissions/{TOKEN}/job.sh"])
def test_the_number_of_a_queued_job_is_found_in_its_comment_or_script(earlier, commands, row):
    commands.prints("squeue", f"Welcome\n16|other|/f/submissions/x/job.sh\n{row}\n")
    assert Slurm(print, signal_delay_seconds=1).submitted_number(TOKEN) == "17"


def test_outputs_that_arrive_late_are_waited_for(earlier):
    earlier.record()
    earlier.finished()
    timer = threading.Timer(0.3, earlier.output.touch)
    timer.start()
    assert earlier.reattach(Cluster(state=None), latency_wait=30) is not None
    assert "Waiting at most 30 seconds for 1 outputs of finished SLURM jobs." in earlier.messages


def test_outputs_of_a_job_that_finished_long_ago_are_not_waited_for(earlier):
    earlier.record()
    earlier.finished(age_seconds=100)
    assert earlier.reattach(Cluster(state=None), latency_wait=30) is None
    assert earlier.messages == []


def test_the_controller_is_asked_again_until_it_responds(earlier):
    earlier.record()
    cluster = Cluster()
    cluster.failures = 3
    assert earlier.reattach(cluster) is not None


def test_nothing_is_done_while_the_state_is_unknown(earlier, monkeypatch):
    monkeypatch.setattr(reattach, "_TIMEOUT_SECONDS", 0)
    earlier.record()
    cluster = Cluster()
    cluster.failures = 1000
    with pytest.raises(WorkflowError, match="Cannot determine whether job 1"):
        earlier.reattach(cluster)
    assert "key" in earlier.registry.read_all()


def test_the_record_of_a_job_that_is_not_needed_any_more_is_removed(earlier):
    earlier.record()
    earlier.finished()
    logger = SimpleNamespace(info=print, warning=print)
    ReattachedJobs(earlier.registry, Cluster(state=None), logger, latency_wait=0).drop_finished([earlier.job])
    assert earlier.registry.read_all() == {}
    assert not submission_folder(TOKEN).exists()


def test_the_record_of_a_job_that_may_still_run_is_kept(earlier):
    earlier.record()
    logger = SimpleNamespace(info=print, warning=print)
    ReattachedJobs(earlier.registry, Cluster(), logger, latency_wait=0).drop_finished([earlier.job])
    assert "key" in earlier.registry.read_all()


@pytest.mark.parametrize("number", ["1", None])
def test_the_record_of_a_job_that_is_not_needed_is_removed_although_its_number_was_not_recorded(earlier, number):
    earlier.record(number="")
    earlier.finished()
    cluster = Cluster(state=None)
    cluster.number = number  # None: SLURM never accepted the job
    logger = SimpleNamespace(info=print, warning=print)
    ReattachedJobs(earlier.registry, cluster, logger, latency_wait=0).drop_finished([earlier.job])
    assert earlier.registry.read_all() == {}


def test_a_record_without_a_number_is_kept_while_the_controller_does_not_respond(earlier, monkeypatch):
    earlier.record(number="")
    cluster = Cluster(state=None)

    def submitted_number(token):
        raise QueryFailed("squeue: Unable to contact slurm controller")

    monkeypatch.setattr(cluster, "submitted_number", submitted_number)
    logger = SimpleNamespace(info=print, warning=print)
    ReattachedJobs(earlier.registry, cluster, logger, latency_wait=0).drop_finished([earlier.job])
    assert "key" in earlier.registry.read_all()
