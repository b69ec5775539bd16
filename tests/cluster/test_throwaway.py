"""The throwaway SLURM cluster behaves like a cluster's SLURM and can be stopped, repaired and restarted.

Preemption, failing nodes and restarts of slurmctld are tested in `test_slurm_interruptions.py`, with the executor.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.throwaway import ThrowawayError, ThrowawaySlurm, Unavailable, hosts, job_processes, packages
from cluster.throwaway.daemons import Daemons, wait_until
from cluster.throwaway.layout import Layout
from cluster.throwaway.slurm import _mounts_below
from tests.waiting import running

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


@pytest.fixture
def clean(slurm: ThrowawaySlurm) -> Iterator[ThrowawaySlurm]:
    """The throwaway SLURM cluster. All jobs are cancelled after the test."""
    yield slurm
    slurm.run("scancel", "--user=root")
    wait_until(lambda: not slurm.run("squeue", "-h"), 30, "jobs do not end")


def submit(slurm: ThrowawaySlurm, folder: Path, script: str, *options: str) -> int:
    """Submit a batch script that writes its output to `<job>.out`, and return the job id."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\n{script}\n")
    where = [f"--output={folder}/%j.out", f"--chdir={folder}"]
    return int(slurm.run("sbatch", "--parsable", *where, *options, str(path)))


def states(slurm: ThrowawaySlurm, job: int) -> list[str]:
    """Return the accounting states of all attempts of a job, oldest first."""
    output = slurm.run("sacct", "-D", "-X", "-n", "-P", "-j", str(job), "-o", "state")
    return [line.split()[0] for line in output.splitlines()]


def wait_for_state(slurm: ThrowawaySlurm, job: int, state: str, seconds: float = 60) -> None:
    wait_until(lambda: state in states(slurm, job), seconds, f"job {job} does not become {state}")


def test_a_job_runs_on_two_nodes_and_accounting_records_it_immediately(clean: ThrowawaySlurm, tmp_path: Path):
    job = submit(clean, tmp_path, "srun sh -c 'echo $SLURMD_NODENAME $SLURM_PROCID'", "--nodes=2", "--ntasks=2")
    wait_until(lambda: states(clean, job) == ["COMPLETED"], 20, "the job does not complete")
    assert sorted((tmp_path / f"{job}.out").read_text().split()) == ["0", "1", "n1", "n2"]


def test_node_names_resolve_to_this_machine(slurm: ThrowawaySlurm):
    found = subprocess.run(["getent", "hosts", *slurm.nodes], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in found.splitlines()] == ["127.0.0.1"] * len(slurm.nodes)


def test_a_job_that_exceeds_its_memory_is_killed(clean: ThrowawaySlurm, tmp_path: Path):
    script = "exec python3 -c 'x = bytearray(400 << 20); import time; time.sleep(20)'"
    job = submit(clean, tmp_path, script, "--mem=100")
    wait_until(lambda: not {"PENDING", "RUNNING"} & set(states(clean, job) or ["PENDING"]), 30, "it does not end")
    if clean.reports_out_of_memory():
        assert states(clean, job) == ["OUT_OF_MEMORY"]
    else:
        assert "memory limit" in (tmp_path / f"{job}.out").read_text()


def test_an_unknown_account_or_partition_is_rejected(slurm: ThrowawaySlurm, tmp_path: Path):
    with pytest.raises(ThrowawayError, match="Invalid account"):
        submit(slurm, tmp_path, "true", "--account=nonsense")
    with pytest.raises(ThrowawayError, match="invalid partition"):
        submit(slurm, tmp_path, "true", "--partition=nonsense")


def test_a_job_gets_the_gpus_that_it_requests(clean: ThrowawaySlurm, tmp_path: Path):
    job = submit(clean, tmp_path, "echo $CUDA_VISIBLE_DEVICES", "--gpus-per-node=2")
    wait_for_state(clean, job, "COMPLETED")
    if all(clean.layout.gpu(number).is_char_device() for number in range(2)):
        assert (tmp_path / f"{job}.out").read_text().strip() == "0,1"


def test_a_second_start_changes_nothing(slurm: ThrowawaySlurm):
    before = slurm.status()
    logged: list[str] = []
    ThrowawaySlurm(log=logged.append).up()
    assert slurm.status() == before
    assert re.match("already up: nodes n1 n2", logged[0])


def test_up_replaces_killed_daemons_and_down_leaves_nothing_behind(clean: ThrowawaySlurm, tmp_path: Path):
    submit(clean, tmp_path, "srun sleep 500", "--nodes=2")
    wait_until(lambda: clean.run("squeue", "-h", "-s") != "", 20, "no step starts")
    started = [psutil.Process(pid) for _, pid in clean.status()]
    steps = [process for process in psutil.process_iter() if process.name() == "slurmstepd"]
    steps += [child for step in steps for child in step.children(recursive=True)]
    for process in started[2:]:
        process.kill()
    try:
        clean.up()
        assert not running([*started, *steps])
        assert clean.is_up()
        restarted = [psutil.Process(pid) for _, pid in clean.status()]
        clean.down()
        assert not running(restarted)
        assert not clean.layout.folder.exists()
        assert "n1" not in Path("/etc/hosts").read_text().split()
        assert not clean.layout.memory_cgroup("n1").exists()
    finally:
        clean.up()


DAEMON = "setsid sleep 601 < /dev/null > /dev/null 2>&1 &"
"""Shell command that starts a process which outlives its job and which SLURM does not track."""


def daemons_of_jobs() -> list[psutil.Process]:
    """Return the processes that `DAEMON` started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", "601"]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return running(found)


def submit_daemons(slurm: ThrowawaySlurm, folder: Path) -> list[psutil.Process]:
    """Run a job that leaves a process on each node, and return these processes."""
    job = submit(slurm, folder, f"srun sh -c '{DAEMON} sleep 0.2'", "--nodes=2", "--ntasks=2")
    wait_for_state(slurm, job, "COMPLETED")
    left = daemons_of_jobs()
    assert len(left) == 2
    return left


def test_down_and_up_end_the_processes_that_a_job_left_behind(clean: ThrowawaySlurm, tmp_path: Path):
    submit_daemons(clean, tmp_path)
    try:
        clean.down()
        assert daemons_of_jobs() == []
        assert not clean.layout.memory_cgroup("n1").exists()
        assert not clean.layout.folder.exists()
    finally:
        clean.up()
    assert clean.is_up()


def test_without_cgroups_the_processes_of_jobs_are_found_by_their_environment(
    clean: ThrowawaySlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unrelated = subprocess.Popen(["sleep", "602"], env={"SLURM_CONF": str(clean.layout.slurm_conf)})
    other_slurm = subprocess.Popen(["sleep", "602"], env={"SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": "1"})
    submit_daemons(clean, tmp_path)
    monkeypatch.setattr(job_processes, "in_cgroups", lambda groups: [])
    try:
        clean.down()
        assert daemons_of_jobs() == []
        assert unrelated.poll() is None and other_slurm.poll() is None
    finally:
        for process in (unrelated, other_slurm):
            process.kill()
            process.wait()
        clean.up()


def test_a_node_crash_ends_the_processes_that_jobs_left_on_this_node(clean: ThrowawaySlurm, tmp_path: Path):
    submit_daemons(clean, tmp_path)
    clean.kill_slurmd("n2")
    try:
        (left,) = daemons_of_jobs()
        assert left.environ()["SLURMD_NODENAME"] == "n1"
        left.kill()
    finally:
        clean.start_slurmd("n2", rebooted=True)


def test_a_node_that_crashed_reports_its_reboot(clean: ThrowawaySlurm):
    def boot_time() -> str:
        (found,) = re.findall(r"BootTime=(\S+)", clean.run("scontrol", "show", "node", "n2"))
        return found

    before = boot_time()
    time.sleep(1.1)  # boot times are in whole seconds
    clean.kill_slurmd("n2")
    clean.start_slurmd("n2", rebooted=True)
    wait_until(lambda: boot_time() > before, 20, "the reboot is not reported")


def test_jobs_continue_while_slurmd_restarts(clean: ThrowawaySlurm, tmp_path: Path):
    job = submit(clean, tmp_path, "while [ ! -e end ]; do sleep 0.1; done", "--nodelist=n2")
    wait_for_state(clean, job, "RUNNING")
    clean.stop_slurmd("n2", signal.SIGKILL)
    clean.start_slurmd("n2")
    (tmp_path / "end").touch()
    wait_for_state(clean, job, "COMPLETED")
    assert states(clean, job) == ["COMPLETED"]


@pytest.mark.parametrize("damage", ["the folder is removed", "the records are incomplete", "up is killed"])
def test_up_repairs_what_an_interruption_left_behind(clean: ThrowawaySlurm, damage: str):
    folder, before = clean.layout.folder, [psutil.Process(pid) for _, pid in clean.status()]
    try:
        if damage == "the folder is removed":
            shutil.rmtree(folder)
        elif damage == "the records are incomplete":
            for name in ("layout.json", "processes.json"):
                (folder / name).write_text('{"node_count": 2, "mun')
        else:
            clean.down()
            partial = subprocess.Popen([sys.executable, "-m", "cluster.throwaway", "up"], stdout=subprocess.PIPE)
            wait_until((folder / "mariadb" / "data").exists, 30, "MariaDB's folder is not created")
            partial.kill()
            partial.communicate()
        again = ThrowawaySlurm()
        again.up()
        assert not running(before)
        assert again.run("sinfo", "-h", "-o", "%D %T") == "2 idle"
    finally:
        clean.up()


def test_clients_ignore_variables_that_change_their_options(slurm: ThrowawaySlurm, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"SQUEUE_FORMAT": "%u", "SBATCH_PARTITION": "none", "SLURM_CONF": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    assert slurm.run("squeue").split()[0] == "JOBID"
    assert slurm.run("sbatch", "--test-only", "--wrap=true") == ""


def test_env_prints_the_environment_for_a_shell(slurm: ThrowawaySlurm):
    done = subprocess.run(
        [sys.executable, "-m", "cluster.throwaway", "env"], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert done.stdout == f"export SLURM_CONF={slurm.layout.slurm_conf}\n"


class TestWithoutSlurm:
    """Tests that need neither root nor SLURM."""

    def test_without_root_the_error_explains_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        slurm = ThrowawaySlurm(Layout(folder=tmp_path / "slurm"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        for command in (slurm.up, slurm.down):
            with pytest.raises(Unavailable, match=r"needs root.*in a container"):
                command()

    def test_a_failed_installation_is_reported_with_the_apt_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(packages, "_SYSTEM_FOLDERS", "")
        monkeypatch.setattr(packages, "_POLICY", tmp_path / "policy-rc.d")
        monkeypatch.setenv("PATH", str(tmp_path))
        apt = tmp_path / "apt-get"
        apt.write_text("#!/bin/sh\necho could not resolve the archive\nexit 100\n")
        apt.chmod(0o755)
        with pytest.raises(Unavailable, match="status 100:\ncould not resolve"):
            packages.install_packages(lambda _: None)
        assert not (tmp_path / "policy-rc.d").exists()
        (tmp_path / "policy-rc.d").write_text("of this machine")
        with pytest.raises(Unavailable):
            packages.install_packages(lambda _: None)
        assert (tmp_path / "policy-rc.d").read_text() == "of this machine"

    def test_the_policy_file_of_a_killed_installation_is_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        policy = tmp_path / "policy-rc.d"
        monkeypatch.setattr(packages, "_POLICY", policy)
        with packages._services_disabled([]):
            left = policy.read_text()
        policy.write_text(left)
        with packages._services_disabled([]):
            pass
        assert not policy.exists()

    def test_a_mounted_file_system_is_not_emptied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        layout = Layout(folder=tmp_path / "slurm")
        layout.create()
        monkeypatch.setattr("cluster.throwaway.slurm._mounts_below", lambda folder: [f"{folder}/state"])
        with pytest.raises(ThrowawayError, match=r"/state\. Unmount them"):
            ThrowawaySlurm(layout).down()
        assert layout.logs.exists()

    def test_mount_points_inside_a_folder_are_found(self, tmp_path: Path):
        mounts = tmp_path / "mounts"
        mounts.write_text(
            "tmpfs /tmp/slurm tmpfs rw 0 0\ntmpfs /tmp/slurm/a tmpfs rw 0 0\ntmpfs /tmp/slurm-b tmpfs rw 0 0\n"
        )
        assert _mounts_below(Path("/tmp/slurm"), mounts) == ["/tmp/slurm/a"]

    def test_the_cgroups_of_a_different_slurm_are_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        group = tmp_path / "slurm_n1"
        group.mkdir()
        (group / "cgroup.procs").write_text("1\n")
        monkeypatch.setattr("cluster.throwaway.layout.MEMORY_CGROUP", tmp_path)
        monkeypatch.setattr(hosts, "contains", lambda: False)
        monkeypatch.setattr(hosts, "remove", lambda: None)
        ThrowawaySlurm(Layout(folder=tmp_path / "absent"))._clear()
        assert group.exists()

    def test_a_cgroup_that_cannot_be_removed_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(job_processes, "_REMOVE_SECONDS", 0.2)
        (tmp_path / "slurm_n1" / "uid_0").mkdir(parents=True)
        (tmp_path / "slurm_n1" / "uid_0" / "occupied").touch()
        with pytest.raises(ThrowawayError, match=r"Cannot remove the cgroup .*slurm_n1: Directory not empty"):
            job_processes.remove_cgroup(tmp_path / "slurm_n1")

    def test_only_the_line_that_was_added_is_removed_from_the_hosts_file(self, tmp_path: Path):
        path = tmp_path / "hosts"
        path.write_text("127.0.0.1 localhost\n10.0.0.1 elsewhere")
        hosts.add(["n1", "n2"], path)
        hosts.add(["n1", "n2"], path)
        assert path.read_text().count("n1 n2") == 1
        hosts.remove(path)
        assert path.read_text() == "127.0.0.1 localhost\n10.0.0.1 elsewhere\n"

    def test_a_later_process_with_a_daemons_id_is_not_mistaken_for_it(self, tmp_path: Path):
        record = tmp_path / "processes.json"
        daemons = Daemons(record, tmp_path, tmp_path)
        record.write_text(f'{{"munged": [{os.getpid()}, 1.0]}}')
        assert daemons.running("munged") is None
        daemons.stop("munged")
        assert daemons.names() == []

    def test_a_daemon_that_ignores_sigterm_is_killed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("cluster.throwaway.daemons._STOP_SECONDS", 1.0)
        daemons = Daemons(tmp_path / "processes.json", tmp_path, tmp_path)
        script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
        daemons.start("stubborn", [sys.executable, "-c", script], os.environ, tmp_path)
        wait_until(lambda: "ready" in daemons.output_file("stubborn").read_text(), 20, "it does not start")
        daemons.stop("stubborn")
        assert daemons.running("stubborn") is None
