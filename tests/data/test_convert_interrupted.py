"""Conversions that are interrupted at an arbitrary moment and resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from mem.data.beton.format import PAGE_BYTES
from tests.data.conversions import COUNTS, contents, converted, refusal, settings_for

pytestmark = pytest.mark.stage

SLOW = """
import time
import mem.data.codecs.decode as codec

fast_decode = codec.decode

def decode(content):
    if b"raise here" in content:
        raise ZeroDivisionError("unexpected")
    time.sleep({seconds})
    return fast_decode(content)

codec.decode = decode
"""


@pytest.fixture
def slow(tmp_path, monkeypatch) -> Path:
    """Slow workers down to 20 ms per image, and make them raise an exception for marked images."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW.format(seconds=0.02))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


@contextlib.contextmanager
def after_first_images(out: Path, then: Callable[[list[psutil.Process]], None]) -> Iterator[None]:
    """As soon as a conversion has written images, call `then` with its worker processes."""

    def wait() -> None:
        data = out / ".train.beton.partial"
        while not finished.wait(0.02):
            if data.exists() and data.stat().st_size > PAGE_BYTES:
                children = psutil.Process().children()
                then([p for p in children if "mem.data.convert.worker_process" in " ".join(p.cmdline())])
                return

    finished = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_stops_the_conversion_and_its_image_is_named(
    tree, uninterrupted, slow, tmp_path, monkeypatch, number
):
    began = time.monotonic()
    with after_first_images(tmp_path / "out", lambda workers: workers[0].send_signal(number)):
        message = refusal(tree, tmp_path / "out")
    assert time.monotonic() - began < 30
    assert f".jpg: the worker process was killed by {number.name}" in message
    assert message.startswith(str(tree / "train"))
    assert not list((tmp_path / "out").glob("*.beton"))
    assert not psutil.Process().children()
    monkeypatch.delenv("PYTHONPATH")
    messages: list[str] = []
    converted(tree, tmp_path / "out", say=messages.append)
    assert messages[0].startswith("An earlier run converted ")
    assert contents(tmp_path / "out") == contents(uninterrupted)


def test_an_exception_in_a_worker_stops_the_conversion_and_its_image_is_named(tree_copy, slow, tmp_path):
    path = tree_copy / "train/class2/0080.jpg"
    path.write_bytes(path.read_bytes() + b"raise here")
    message = refusal(tree_copy, tmp_path / "out")
    assert message.startswith(f"{path}: the worker raised ZeroDivisionError: unexpected.")
    assert not psutil.Process().children()


def test_a_worker_that_cannot_start_stops_the_conversion(tree, tmp_path, monkeypatch, capfd):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cv2.py").write_text("raise ImportError('libGL is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert "before the first image: the worker process exited with status 1" in refusal(tree, tmp_path / "out")
    assert "libGL is missing" in capfd.readouterr().err


CONVERT = """
import sys
from pathlib import Path
import mem.data.beton.writer as writer
from mem.config import Folder
from mem.data.convert.convert import convert
from mem.data.datasets import read_dataset

writer._SYNC_SECONDS = 0.1
settings = Folder.model_validate_json(sys.argv[1])
convert(read_dataset(settings, 0), settings, Path(sys.argv[2]), 2)
"""


def started(tree: Path, out: Path) -> subprocess.Popen:
    """Start a conversion in another process."""
    settings = settings_for(tree).model_dump_json()
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT, settings, str(out)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )


def journal_count(out: Path) -> int:
    """Return the number of images listed in the journals."""
    return sum(path.read_bytes().count(b"\n") - 1 for path in out.glob(".*.journal"))


def test_a_killed_conversion_leaves_no_workers_and_resumes(tree, uninterrupted, slow, tmp_path):
    out = tmp_path / "out"
    process = started(tree, out)
    deadline = time.monotonic() + 60
    while journal_count(out) < 30:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    done = journal_count(out)
    assert 30 <= done < sum(COUNTS.values())
    messages: list[str] = []
    converted(tree, out, say=messages.append)
    assert messages[0].startswith(f"An earlier run converted {done} of 210 images")
    assert contents(out) == contents(uninterrupted)


def test_the_stage_resumes_after_sigterm(tree, uninterrupted, slow, tmp_path, mini_values):
    study = {**mini_values, "dataset": settings_for(tree).model_dump(mode="json", exclude_defaults=True)}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    mem = [sys.executable, "-m", "mem.cli"]
    subprocess.run([*mem, "runs", "study.yaml", "--write"], cwd=tmp_path, check=True, capture_output=True)
    run = next(tmp_path.glob("runs/tree/data/convert-*"))
    command = [*mem, "convert", "--config", str(run)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    data, deadline = run / ".train.beton.partial", time.monotonic() + 120
    while not (data.exists() and data.stat().st_size > PAGE_BYTES):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert "(SIGTERM)" in output
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    done = journal_count(run)
    assert 0 < done < sum(COUNTS.values())
    finished = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=True)
    assert f"An earlier run converted {done} of 210 images; resuming from there." in finished.stderr
    assert contents(run) == contents(uninterrupted)


def interrupt(tree: Path, out: Path, after: int) -> None:
    """Interrupt a conversion after the given number of images."""

    class Interrupted(Exception):
        pass

    from mem.data.beton.writer import BetonWriter

    count, add = 0, BetonWriter.add

    def counted(self, image) -> None:
        nonlocal count
        if count == after:
            raise Interrupted
        count += 1
        add(self, image)

    BetonWriter.add = counted
    try:
        converted(tree, out)
    except Interrupted:
        pass
    finally:
        BetonWriter.add = add


@pytest.mark.parametrize("after", [0, 1, 149, 150, 151, 209])
def test_the_bytes_do_not_depend_on_the_image_of_an_interruption(tree, uninterrupted, tmp_path, after):
    interrupt(tree, tmp_path, after)
    assert journal_count(tmp_path) >= after
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)


def test_two_interruptions_do_not_change_the_bytes(tree, uninterrupted, tmp_path):
    interrupt(tree, tmp_path, 40)
    interrupt(tree, tmp_path, 70)
    assert journal_count(tmp_path) == 110
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)


@pytest.mark.parametrize(
    "damage",
    [
        lambda journal, data: journal.write_bytes(journal.read_bytes()[:-5]),
        lambda journal, data: journal.write_bytes(journal.read_bytes() + b"j 40 5"),
        lambda journal, data: journal.write_bytes(journal.read_bytes() + b"\0" * 100 + b"\n\xff\xfe\nj 3\n"),
        lambda journal, data: journal.write_bytes(b""),
        lambda journal, data: os.truncate(data, data.stat().st_size - 3000),
        lambda journal, data: data.unlink(),
    ],
)
def test_a_truncated_journal_or_file_does_not_change_the_bytes(tree, uninterrupted, tmp_path, damage):
    interrupt(tree, tmp_path, 100)
    damage(tmp_path / ".train.beton.journal", tmp_path / ".train.beton.partial")
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)


def test_an_attempt_with_other_settings_is_discarded(tree, uninterrupted, tmp_path):
    interrupt(tree, tmp_path, 100)
    messages: list[str] = []
    converted(tree, tmp_path, say=messages.append, jpeg_quality=60)
    assert not messages
    assert contents(tmp_path) != contents(uninterrupted)
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)


def test_an_interruption_while_files_get_their_names_is_resumed(tree, uninterrupted, tmp_path, monkeypatch):
    from mem.data.convert import convert as module

    def publish_first(writers) -> None:
        writers[0].publish()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "publish_all", publish_first)
        with pytest.raises(KeyboardInterrupt):
            converted(tree, tmp_path)
    assert (tmp_path / "train.beton").exists()
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)


def test_a_full_disk_is_one_message_and_the_next_run_resumes(tree, uninterrupted, tmp_path, monkeypatch):
    import errno

    from mem.data.beton import writer

    write, free_bytes = writer._write, 100_000

    def limited(descriptor, content, path, position=None) -> None:
        nonlocal free_bytes
        free_bytes -= len(content)
        if free_bytes < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(descriptor, content, path, position)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "_write", limited)
        message = refusal(tree, tmp_path)
    assert ".train.beton.partial: the disk is full after" in message
    assert "run the same command to resume" in message
    assert not list(tmp_path.glob("*.beton"))
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)
