"""`mem runs redo`, `rm` and `gc`: what they remove, and everything that they leave alone."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mem.cli.main import main
from mem.errors import UserError
from mem.jobs.unfinished import INPUTS_FILE, UNFINISHED_STATISTICS
from mem.progress import RECORD_FILE
from mem.projects.run_states import run_state
from mem.runs.folder import RunFolder
from mem.runs.garbage import collect_garbage
from mem.runs.removal import TRASH, redo, remove_run
from mem.runs.stored import foreign_files, locked_keys, stored_runs, try_lock
from mem.runs.working_folder import lock_working_folder
from tests.runs.mini_runs import CHANGED, MINI, find, stored, yes


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / "runs").rglob("*") if path.is_file()}


def test_redo_removes_the_outputs_of_a_run_and_of_its_dependents_and_keeps_their_settings(root):
    head, evaluation, other = find("train_head"), find("evaluate"), find("train_head", "crt")
    settings = (root / head.folder / "config.yaml").read_bytes()
    assert redo(head.folder, root, yes) == 0
    for run in (head, evaluation):
        assert sorted(os.listdir(root / run.folder)) == ["config.yaml", "site.yaml"]
    assert (root / head.folder / "config.yaml").read_bytes() == settings
    assert RunFolder(root / other.folder).finished()
    assert RunFolder(root / find("report").folder).finished(), "the report is repeated because its inputs are"
    assert not (root / TRASH).exists()


def test_a_run_that_is_repeated_is_waiting(root):
    """The messages of the removed attempt are not taken for those of a run that failed before it could open its log."""
    head, other = find("train_head"), find("train_head", "crt")
    for run in (head, other):
        messages = RunFolder(run.folder).messages
        for path in (messages, messages.with_name(f"{messages.name}.rank1")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("train_head: done in 0 s.\n")
        folder_of_executor = root / f"{messages}.ranks"
        folder_of_executor.mkdir()
        (folder_of_executor / "rank0.txt").write_text("train_head: done in 0 s.\n")
    redo(head.folder, root, yes)
    assert run_state(head, 0.0).state == "waiting"
    assert sorted((root / "logs").rglob("*.*")) == [
        root / f"{RunFolder(other.folder).messages}{suffix}" for suffix in ("", ".rank1", ".ranks", ".ranks/rank0.txt")
    ]


def test_a_run_whose_stage_was_killed_can_be_removed(root):
    head = find("train_head")
    for name in (RECORD_FILE, f".{RECORD_FILE}.123.tmp"):
        (root / head.folder / name).touch()
    remove_run(head.folder, root, yes)
    assert not (root / head.folder).exists()


def test_what_an_interrupted_features_run_left_can_be_removed(root):
    features = find("features")
    for name in (UNFINISHED_STATISTICS, INPUTS_FILE):
        (root / features.folder / name).touch()
    assert foreign_files(root / features.folder) == []
    redo(features.folder, root, yes)
    assert sorted(os.listdir(root / features.folder)) == ["config.yaml", "site.yaml"]


def test_runs_are_removed_on_a_file_system_without_locks(root, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    head = find("train_head")
    runs, _ = stored_runs(root)
    monkeypatch.setattr("fcntl.flock", refuse)
    assert locked_keys(runs, root) == {}
    lock = try_lock(root / head.folder)
    assert lock is not None
    lock.close()


def test_redo_of_a_shared_run_removes_the_outputs_of_both_studies(root):
    redo(find("features").folder, root, yes)
    for changes in (None, CHANGED):
        assert not RunFolder(root / find("train_head", changes=changes).folder).finished()
    assert RunFolder(root / find("finetune").folder).finished()


def test_rm_removes_a_run_with_its_dependents_and_empty_folders(root):
    before = stored(root)
    remove_run(find("train_head").folder, root, yes)
    gone = {find(stage).key for stage in ("train_head", "evaluate", "report")}
    assert stored(root) == before - gone
    remove_run(find("convert").folder, root, yes)
    assert not (root / "runs/mini_digits").exists()
    assert (root / "runs").is_dir()


def test_nothing_is_removed_if_the_answer_is_no(root, capsys):
    before = content(root)
    assert redo(find("pretrain").folder, root, lambda question: False) == 1
    assert remove_run(find("pretrain").folder, root, lambda question: False) == 1
    assert collect_garbage([], root, lambda question: False) == 1
    assert {name: data for name, data in content(root).items() if not name.endswith("working-folder.txt")} == before
    assert "Nothing was removed." in capsys.readouterr().out


@pytest.mark.parametrize("command", ["redo mem", "rm mem", "gc"])
def test_without_a_terminal_nothing_is_removed_unless_yes_is_given(root, capsys, command):
    shutil.rmtree(root / find("train_head").folder)  # so that the name is unique
    before = stored(root)
    assert main(["runs", *command.split()]) == 2
    assert "there is no terminal to ask you on. Add --yes" in capsys.readouterr().err
    assert stored(root) == before
    assert main(["runs", *command.split(), "--yes"]) == 0
    assert "MLflow keeps its copies" in capsys.readouterr().out
    head = find("train_head", changes=CHANGED)
    assert RunFolder(root / head.folder).finished() is False


def test_nothing_is_removed_while_a_workflow_process_runs(root):
    before = stored(root)
    with lock_working_folder(root, ""):
        for command in (lambda: redo(find("convert").folder, root, yes), lambda: collect_garbage([], root, yes)):
            with pytest.raises(UserError, match=r"Another workflow process is running in this folder: process \d+"):
                command()
    assert stored(root) == before


def test_nothing_is_removed_while_slurm_jobs_may_be_queued(root):
    registry = root / ".snakemake/submitit/registry"
    registry.mkdir(parents=True)
    (registry / "token.jsonl").touch()
    with pytest.raises(UserError, match="SLURM jobs of an earlier workflow process may still be queued"):
        collect_garbage([], root, yes)


def test_a_run_that_a_process_works_in_or_reads_is_not_removed(root, capsys):
    """A process that works in a head also reads the features, and everything that these were computed from."""
    head = find("train_head", changes=CHANGED)
    with open(root / head.folder / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 1 on node")
        lock.flush()
        for folder in (head.folder, find("features").folder):
            for function in (redo, remove_run):
                with pytest.raises(
                    UserError, match=rf"{head.folder} is in use by process 1 on node. Wait until it ends"
                ):
                    function(folder, root, yes)
        assert collect_garbage([], root, yes) == 0
        assert f"Left alone: {head.folder}: in use by process 1 on node" in capsys.readouterr().out
        assert RunFolder(root / head.folder).finished()
        assert not (root / find("evaluate", changes=CHANGED).folder).exists()


def test_files_that_are_not_ours_are_left_alone(root, capsys):
    head, evaluation = find("train_head", changes=CHANGED), find("evaluate", changes=CHANGED)
    (root / evaluation.folder / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no stage writes notes.txt. Move your own files elsewhere"):
        remove_run(head.folder, root, yes)
    (root / "runs/mini_digits/mine").mkdir()
    (root / "runs/mini_digits/mine/train_head-000000000000").mkdir()
    (root / "runs/mini_digits/mine/notes").mkdir()
    collect_garbage([], root, yes)
    out = capsys.readouterr().out
    assert "train_head-000000000000: its config.yaml is missing" in out
    assert "no stage writes notes.txt" in out
    assert (root / "runs/mini_digits/mine/train_head-000000000000").is_dir()
    assert (root / head.folder).is_dir(), "a run that is kept depends on it"


def test_links_are_not_followed(root, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    head = find("train_head", changes=CHANGED)
    shutil.move(root / head.folder, elsewhere)
    (root / head.folder).symlink_to(elsewhere)
    (tmp_path / "other/backbone").mkdir(parents=True)
    outside = tmp_path / "other/backbone" / find("evaluate", changes=CHANGED).folder.name
    shutil.copytree(root / find("evaluate", changes=CHANGED).folder, outside)
    (root / "runs/linked").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=r"this is a link\. It is left alone"):
        remove_run(head.folder, root, yes)
    with pytest.raises(UserError, match="not a run of this runs/"):
        remove_run(elsewhere, root, yes)
    collect_garbage([], root, yes)
    assert f"Left alone: {head.folder}: this is a link" in capsys.readouterr().out
    assert (elsewhere / "run.json").is_file() and (outside / "run.json").is_file()
    (root / TRASH).symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"\.trash: this is a link"):
        remove_run(find("train_head").folder, root, yes)
    assert RunFolder(root / find("train_head").folder).finished()


def test_the_inputs_of_runs_behind_links_are_not_removed(root, tmp_path, capsys):
    """A folder of runs can be moved to another disk and linked."""
    shutil.move(root / "runs/mini_digits/vit_mini", tmp_path / "vit_mini")
    (root / "runs/mini_digits/vit_mini").symlink_to(tmp_path / "vit_mini")
    (root / "config/mini.yaml").write_text(f"extends: {MINI}\ndataset: {{test_per_class: 21}}\n")
    before = stored(root)
    for function in (redo, remove_run):
        with pytest.raises(UserError, match=r"vit_mini: this is a link, and .* depends on this run"):
            function(find("convert").folder, root, yes)
    assert collect_garbage([], root, yes) == 0
    out = capsys.readouterr().out
    assert out.count("Left alone: runs/mini_digits/vit_mini: this is a link\n") == 1
    assert find("convert").key in stored(root) and before - stored(root) <= {
        find("report").key,
        find("report", changes=CHANGED).key,
    }


def test_a_link_inside_a_run_folder_is_a_file_that_is_not_ours(root):
    (root / find("pretrain").folder / "encoder.safetensors").symlink_to("/somewhere")
    assert foreign_files(root / find("pretrain").folder) == ["encoder.safetensors"]


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_command_that_is_killed_leaves_each_run_complete_or_gone(root, monkeypatch, moved):
    before, rename = content(root), os.rename
    runs = [find(stage, changes=CHANGED) for stage in ("report", "evaluate", "train_head")]

    def kill(count: int) -> Callable[..., None]:
        left = iter(range(count))

        def rename_some(*paths: Path) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            rename(*paths)

        return rename_some

    monkeypatch.setattr("os.rename", kill(moved))
    with pytest.raises(KeyboardInterrupt):
        collect_garbage([], root, yes)
    monkeypatch.undo()
    assert [(root / run.folder).exists() for run in runs] == [i >= moved for i in range(3)]
    after = content(root)
    kept = {name for name in before if not any(name.startswith(str(run.folder)) for run in runs[:moved])}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    os.chdir(root)
    collect_garbage([], root, yes)
    assert not (root / TRASH).exists()
    assert not any((root / run.folder).exists() for run in runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redo", "nothing"], "nothing: not a run folder"),
        (["rm", ""], "(empty text): not a run folder"),
        (["rm", "/"], "not a run folder"),
        (["rm", "runs"], "not a run folder"),
        (["rm", ".."], "not a run folder"),
        (["redo", "mem"], "2 runs match"),
        (["redo", "mini:nothing"], "study mini has no head nothing"),
    ],
)
def test_rubbish_is_refused_with_a_message(root, capsys, arguments, message):
    before = stored(root)
    assert main(["runs", *arguments, "--yes"]) == 2
    assert message in capsys.readouterr().err
    assert stored(root) == before


def test_a_report_cannot_be_repeated_by_removing_its_outputs(root):
    with pytest.raises(UserError, match="a report has no outputs in runs/"):
        redo(find("report").folder, root, yes)


def test_a_folder_without_runs_is_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "gc", "--yes"]) == 2
    assert "this folder has no runs/" in capsys.readouterr().err
