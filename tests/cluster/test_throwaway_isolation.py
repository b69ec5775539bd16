"""Other users of the machine cannot influence the throwaway SLURM cluster, and it does not affect their processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster.throwaway import ThrowawayError, hosts, job_processes, packages
from cluster.throwaway.daemons import Daemons
from cluster.throwaway.layout import Layout


class FakeProcess:
    """A step daemon of a user, with a working directory and an environment of the throwaway SLURM cluster."""

    def __init__(self, pid: int, user: int, folder: Path, effective_user: int | None = None) -> None:
        self.pid = pid
        self._users = SimpleNamespace(real=user, effective=user if effective_user is None else effective_user)
        self._folder = folder

    def uids(self) -> SimpleNamespace:
        return self._users

    def name(self) -> str:
        return "slurmstepd"

    def cwd(self) -> str:
        return str(self._folder / "spool" / "n1")

    def environ(self) -> dict[str, str]:
        return {"SLURM_CONF": str(Layout(folder=self._folder).slurm_conf), "SLURM_JOB_ID": "1"}

    def children(self, recursive: bool) -> list[FakeProcess]:
        return []


class TestProcessesOfOtherUsers:
    """Only processes that the current user started are found by environment, working directory and record."""

    @pytest.fixture
    def processes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process of the current user, one of another user, and a setuid program that the other user started."""
        own, other = os.geteuid(), os.geteuid() + 1
        found = [FakeProcess(900001, own, tmp_path), FakeProcess(900002, other, tmp_path)]
        found.append(FakeProcess(900003, other, tmp_path, effective_user=own))
        monkeypatch.setattr(psutil, "process_iter", lambda: found)

    @pytest.mark.usefixtures("processes")
    def test_by_environment(self, tmp_path: Path):
        found = job_processes.by_environment(Layout(folder=tmp_path).slurm_conf)
        assert [process.pid for process in found] == [900001]

    @pytest.mark.usefixtures("processes")
    def test_by_working_directory(self, tmp_path: Path):
        found = Daemons(tmp_path / "processes.json", tmp_path, tmp_path).unrecorded()
        assert [process.pid for process in found] == [900001]

    def test_by_record(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        here = psutil.Process()
        (tmp_path / "processes.json").write_text(json.dumps({"slurmctld": (here.pid, here.create_time())}))
        daemons = Daemons(tmp_path / "processes.json", tmp_path, tmp_path)
        assert daemons.running("slurmctld") is not None
        monkeypatch.setattr(psutil.Process, "uids", lambda process: SimpleNamespace(real=os.geteuid() + 1))
        assert daemons.running("slurmctld") is None

    def test_by_damaged_record(self, tmp_path: Path):
        (tmp_path / "processes.json").write_text('{"slurmctld": [-1, 1.0]}')
        assert Daemons(tmp_path / "processes.json", tmp_path, tmp_path).running("slurmctld") is None


class TestSystemFiles:
    """System files and programs that `up` changes or uses."""

    def test_another_process_cannot_block_the_commands_forever(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "hosts"
        path.touch()
        monkeypatch.setattr(hosts, "_LOCK_SECONDS", 0.2)
        with hosts.locked(path):
            with pytest.raises(ThrowawayError, match="hosts is locked by another process"):
                with hosts.locked(path):
                    pytest.fail("The lock was acquired twice.")
        with hosts.locked(path):
            pass

    def test_an_installation_does_not_write_through_a_linked_policy_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        policy, program = tmp_path / "policy-rc.d", tmp_path / "true"
        program.write_bytes(b"\x7fELF\xff")
        policy.symlink_to(program)
        monkeypatch.setattr(packages, "_POLICY", policy)
        with packages._services_disabled([]):
            assert program.read_bytes() == b"\x7fELF\xff"
            assert "exit 101" in policy.read_text()
        assert policy.readlink() == program
        assert sorted(path.name for path in tmp_path.iterdir()) == ["policy-rc.d", "true"]

    def test_the_policy_file_is_restored_after_a_killed_installation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        policy = tmp_path / "policy-rc.d"
        policy.write_text("of this machine")
        monkeypatch.setattr(packages, "_POLICY", policy)
        with packages._services_disabled([]):
            left = {path: path.read_text() for path in tmp_path.iterdir()}
        for path, text in left.items():
            path.write_text(text)
        with packages._services_disabled([]):
            pass
        assert policy.read_text() == "of this machine"

    @pytest.mark.parametrize("path", ["", ".", "::relative"])
    def test_programs_in_the_working_directory_are_not_run(
        self, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        for folder in (tmp_path, tmp_path / "relative"):
            folder.mkdir(exist_ok=True)
            (folder / "munged").touch(mode=0o755)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr(packages, "_SYSTEM_FOLDERS", "/nowhere")
        with pytest.raises(ThrowawayError, match="munged is not installed"):
            packages.find_program("munged")
