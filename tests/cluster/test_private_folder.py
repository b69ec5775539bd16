"""The throwaway SLURM cluster uses only files that no other user can have written."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.throwaway import ThrowawayError, ThrowawaySlurm, Unavailable, hosts, private_folder
from cluster.throwaway import configuration as configuration_files
from cluster.throwaway.__main__ import main
from cluster.throwaway.daemons import Daemons
from cluster.throwaway.layout import Layout

OTHER_USER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")


@pytest.fixture(autouse=True)
def this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the files and cgroups of this machine, so that a SLURM cluster that is running is not affected."""
    machine = tmp_path / "machine"
    machine.mkdir()
    (machine / "hosts").write_text("127.0.0.1 localhost\n")
    monkeypatch.setattr("cluster.throwaway.layout.FOLDER", tmp_path / "slurm")
    monkeypatch.setattr("cluster.throwaway.layout.MEMORY_CGROUP", machine)
    monkeypatch.setattr("cluster.throwaway.daemons._STOP_SECONDS", 0.1)
    monkeypatch.setattr("cluster.throwaway.slurm.install_packages", lambda log: None)
    monkeypatch.setattr("cluster.throwaway.slurm.unavailable_reason", lambda: None)
    for function in (hosts.add, hosts.contains, hosts.remove, hosts.locked):
        function = getattr(function, "__wrapped__", function)
        monkeypatch.setattr(function, "__defaults__", (machine / "hosts",))


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the processes to which signals are sent. The signals do not arrive."""
    sent: list[int] = []
    monkeypatch.setattr(psutil.Process, "send_signal", lambda process, number: sent.append(process.pid))
    return sent


def plant(folder: Path) -> Path:
    """Create the files of a running SLURM cluster whose daemons are this process, and return the folder."""
    here = psutil.Process()
    layout = Layout(folder=folder)
    for path in (layout.slurm_conf.parent, layout.logs, layout.spool("n1")):
        path.mkdir(parents=True)
        path.chmod(0o755)
    folder.chmod(0o755)
    names = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd n1")
    files = {
        folder / "layout.json": '{"node_count": 1, "cores_per_node": 4, "gpus_per_node": 0}',
        layout.process_record: json.dumps({name: (here.pid, here.create_time()) for name in names}),
        layout.slurm_conf: "PluginDir=/home/other\n",
    }
    for path, text in files.items():
        path.write_text(text)
        path.chmod(0o644)
    return folder


def contents(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return owner, mode, time and text of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        text = path.read_text() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (status.st_uid, status.st_mode, status.st_mtime_ns, text)
    return found


def owned_by_other(path: Path) -> None:
    os.chown(path, OTHER_USER, OTHER_USER, follow_symlinks=False)


def replaced_by_link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


FAULTS = {
    "a folder of another user": ("", owned_by_other, "slurm belongs to user 65534"),
    "a symbolic link": ("", replaced_by_link, "slurm is a symbolic link"),
    "a folder with mode 777": ("", lambda path: path.chmod(0o777), r"slurm is writable by other users \(mode 777\)"),
    "a folder with mode 1777": ("", lambda path: path.chmod(0o1777), r"slurm is writable by .* \(mode 1777\)"),
    "a folder with mode 775": ("", lambda path: path.chmod(0o775), r"slurm is writable by .* \(mode 775\)"),
    "a file instead of a folder": ("", lambda path: (shutil.rmtree(path), path.touch()), "slurm is not a folder"),
    "a process record of another user": ("processes.json", owned_by_other, "processes.json belongs to user 65534"),
    "a process record with mode 666": ("processes.json", lambda path: path.chmod(0o666), "processes.json is writable"),
    "a layout of another user": ("layout.json", owned_by_other, "layout.json belongs to user 65534"),
    "a configuration of another user": ("etc/slurm.conf", owned_by_other, "slurm.conf belongs to user 65534"),
    "a log folder with mode 777": ("log", lambda path: path.chmod(0o777), "log is writable by other users"),
    "a log that is a symbolic link": (
        "log/slurmctld.out",
        lambda path: path.symlink_to("/x"),
        "is a symbolic link",
    ),
    "a spool folder of another user": ("spool/n1", owned_by_other, "n1 belongs to user 65534"),
}
ROOT_FAULTS = [
    pytest.param(name, marks=needs_root if fault[1] is owned_by_other else ()) for name, fault in FAULTS.items()
]


class TestRefused:
    """Files that another user may have written are refused: nothing is killed, written or started."""

    @pytest.fixture(params=ROOT_FAULTS)
    def planted(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """A folder with a fault. Return the pattern of the message that describes the fault."""
        place, damage, pattern = FAULTS[request.param]
        damage(plant(tmp_path / "slurm") / place)
        return pattern

    @pytest.mark.parametrize(
        "command", [["up"], ["down"], ["status"], ["env"], ["run", "true"]], ids=lambda each: each[0]
    )
    def test_by_each_command(
        self, planted: str, command: list[str], tmp_path: Path, signals: list[int], capsys: pytest.CaptureFixture[str]
    ):
        before = contents(tmp_path)
        assert main(command) == 2
        message = capsys.readouterr().err
        with pytest.raises(ThrowawayError, match=planted):
            raise ThrowawayError(message)
        assert "Expected a folder that only the current user can write to" in message
        assert f"remove it with `rm -rf {tmp_path}/slurm`" in message
        assert signals == []
        assert contents(tmp_path) == before

    def test_by_each_method(self, planted: str, tmp_path: Path, signals: list[int]):
        slurm = ThrowawaySlurm(Layout(node_count=1, folder=tmp_path / "slurm"))
        before = contents(tmp_path)
        operations: list[Callable[[], object]] = [
            slurm.up,
            slurm.down,
            slurm.is_up,
            slurm.status,
            slurm.environment,
            slurm._clear,
            slurm.restart_slurmctld,
            slurm.stop_slurmdbd,
            lambda: slurm.run("squeue"),
            lambda: slurm.kill_slurmd("n1"),
            lambda: slurm.start_slurmd("n1"),
            slurm.layout.create,
        ]
        for operation in operations:
            with pytest.raises(ThrowawayError, match=planted):
                operation()
        assert signals == []
        assert contents(tmp_path) == before


class TestParents:
    """A folder is refused if other users can replace it."""

    def test_a_parent_in_which_users_can_rename_folders_of_others(self, tmp_path: Path):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o777)
        folder = plant(tmp_path / "shared" / "slurm")
        with pytest.raises(ThrowawayError, match=r"shared is writable by other users without the sticky bit"):
            Layout.load(folder)
        (tmp_path / "shared").chmod(0o1777)
        assert Layout.load(folder) == Layout(1, 4, 0, folder)

    def test_a_parent_that_is_a_symbolic_link(self, tmp_path: Path):
        plant(tmp_path / "real" / "slurm")
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(ThrowawayError, match="link is a symbolic link"):
            Layout.load(tmp_path / "link" / "slurm")

    @needs_root
    def test_a_parent_of_another_user(self, tmp_path: Path):
        folder = plant(tmp_path / "theirs" / "slurm")
        owned_by_other(folder.parent)
        with pytest.raises(ThrowawayError, match="theirs belongs to user 65534"):
            Layout.load(folder)

    @needs_root
    def test_another_user_is_told_that_the_folder_of_root_needs_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        plant(tmp_path / "slurm")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(Unavailable, match="needs root"):
            ThrowawaySlurm()


class TestCreated:
    """The created files are private with every umask."""

    @pytest.fixture(params=[0o000, 0o022, 0o077])
    def layout(self, request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
        layout = Layout(gpus_per_node=0, folder=tmp_path / "slurm")
        before = os.umask(request.param)
        try:
            layout.create()
            configuration_files.write(layout)
            Daemons(layout.process_record, layout.folder, layout.logs).stop("none")
        finally:
            os.umask(before)
        return layout

    def test_modes(self, layout: Layout):
        modes = {
            str(path.relative_to(layout.folder)): stat.S_IMODE(path.stat().st_mode)
            for path in (layout.folder, *layout.folder.rglob("*"))
        }
        assert modes == {
            **dict.fromkeys((".", "etc", "gpus", "munge", "spool", "spool/n1", "spool/n2"), 0o711),
            **dict.fromkeys(("log", "mariadb", "state"), 0o700),
            **dict.fromkeys(("layout.json", "processes.json", "etc/slurmdbd.conf"), 0o600),
            **dict.fromkeys(("etc/slurm.conf", "etc/cgroup.conf", "etc/gres.conf"), 0o644),
        }
        assert Layout.load(layout.folder) == layout

    def test_a_folder_that_appears_before_it_is_created_is_not_used(self, tmp_path: Path):
        folder = tmp_path / "slurm"
        folder.mkdir()
        with pytest.raises(ThrowawayError, match=r"Another process created .*/slurm in the meantime"):
            Layout(folder=folder).create()
        assert list(folder.iterdir()) == []

    def test_a_mounted_file_system_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "slurm").mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "slurm")
        Layout(folder=tmp_path / "slurm").create()
        assert stat.S_IMODE((tmp_path / "slurm").stat().st_mode) == 0o711
        assert Layout.load(tmp_path / "slurm") is not None

    def test_a_file_does_not_follow_a_link_with_its_temporary_name(self, tmp_path: Path):
        (tmp_path / "private").mkdir(mode=0o700)
        (tmp_path / "other").write_text("unchanged")
        (tmp_path / "private" / "record.new").symlink_to(tmp_path / "other")
        with pytest.raises(ThrowawayError, match=r"record\.new is a symbolic link"):
            private_folder.write(tmp_path / "private" / "record", "new")
        assert (tmp_path / "other").read_text() == "unchanged"

    def test_a_log_is_not_written_to_a_folder_that_was_removed(self, tmp_path: Path):
        with pytest.raises(ThrowawayError, match=r"absent does not exist\. Run `make slurm-up`"):
            private_folder.open_log(tmp_path / "absent" / "munged.out")


class TestFolderOfAnEarlierVersion:
    """Folders with mode 755, which earlier versions created, are replaced."""

    def test_down_ends_its_processes_and_removes_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        folder = plant(tmp_path / "slurm")
        ended: list[int] = []
        monkeypatch.setattr(
            "cluster.throwaway.daemons.end_processes", lambda processes, number: ended.extend(p.pid for p in processes)
        )
        monkeypatch.setattr("cluster.throwaway.slurm.ThrowawaySlurm._cancel_all", lambda slurm: None)
        assert main(["down"]) == 0
        assert ended == [os.getpid()] * 5
        assert not folder.exists()
        # Another user can create the folder again, and shells would read the configuration in it.
        assert "Run `unset SLURM_CONF` in shells that use it" in capsys.readouterr().out

    def test_up_creates_it_again_with_private_modes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folder = plant(tmp_path / "slurm")
        (folder / "processes.json").write_text("{}")
        monkeypatch.setattr("cluster.throwaway.slurm.ThrowawaySlurm._start_all", lambda slurm: slurm.layout.create())
        ThrowawaySlurm().up()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711
        assert not (folder / "etc" / "slurm.conf").exists()


class TestFolderThatAppears:
    """A folder that another user creates while a command runs is not used."""

    @pytest.fixture
    def slurm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ThrowawaySlurm:
        """A SLURM cluster whose folder becomes a link to a folder with other files after the first check."""
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "kept").write_text("kept")

        def appear(*arguments: object) -> list[str]:
            (tmp_path / "slurm").symlink_to(tmp_path / "files")
            return []

        monkeypatch.setattr("cluster.throwaway.slurm._mounts_below", appear)
        return ThrowawaySlurm(Layout(folder=tmp_path / "slurm"))

    def test_its_files_are_not_removed(self, slurm: ThrowawaySlurm, tmp_path: Path):
        with pytest.raises(ThrowawayError, match="slurm is a symbolic link"):
            slurm.down()
        assert (tmp_path / "files" / "kept").read_text() == "kept"

    def test_clients_do_not_read_a_configuration_from_a_removed_folder(self, tmp_path: Path):
        with pytest.raises(ThrowawayError, match=r"slurm does not exist\. Run `make slurm-up` to start SLURM"):
            ThrowawaySlurm(Layout(folder=tmp_path / "slurm")).run("squeue")
