"""Conversions that are broken off at any moment, and go on."""

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

from mem.data.beton.writer import PAGE_BYTES
from tests.data.conversions import COUNTS, contents, converted, refusal, settings_for

SLOW = """
import time
import mem.data.codecs.decode as pictures

whole = pictures.decode

def decode(content):
    if b"raise here" in content:
        raise ZeroDivisionError("nobody thought of this")
    time.sleep({seconds})
    return whole(content)

pictures.decode = decode
"""


@pytest.fixture
def slow(tmp_path, monkeypatch) -> Path:
    """Workers that take 20 ms an image, and raise at some."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW.format(seconds=0.02))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


@contextlib.contextmanager
def once_it_works(out: Path, then: Callable[[list[psutil.Process]], None]) -> Iterator[None]:
    """Do something to this process's workers once a conversion has written images."""

    def wait() -> None:
        data = out / ".train.beton.partial"
        while not over.wait(0.02):
            if data.exists() and data.stat().st_size > PAGE_BYTES:
                then(
                    [
                        p
                        for p in psutil.Process().children()
                        if "mem.data.convert.worker_process" in " ".join(p.cmdline())
                    ]
                )
                return

    over = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_ends_it_with_the_reason_and_the_image(tree, unbroken, slow, tmp_path, monkeypatch, number):
    began = time.monotonic()
    with once_it_works(tmp_path / "out", lambda workers: workers[0].send_signal(number)):
        message = refusal(tree, tmp_path / "out")
    assert time.monotonic() - began < 30
    assert f".jpg: the worker process was ended by {number.name}" in message
    assert message.startswith(str(tree / "train"))
    assert not list((tmp_path / "out").glob("*.beton"))
    assert not psutil.Process().children()
    monkeypatch.delenv("PYTHONPATH")
    said: list[str] = []
    converted(tree, tmp_path / "out", say=said.append)
    assert "were converted by an earlier run" in said[0]
    assert contents(tmp_path / "out") == contents(unbroken)


def test_a_worker_that_raises_ends_it_with_the_reason_and_the_image(own_tree, slow, tmp_path):
    path = own_tree / "train/class2/0080.jpg"
    path.write_bytes(path.read_bytes() + b"raise here")
    message = refusal(own_tree, tmp_path / "out")
    assert message.startswith(f"{path}: its worker raised ZeroDivisionError: nobody thought of this.")
    assert not psutil.Process().children()


def test_workers_that_cannot_start_end_it(tree, tmp_path, monkeypatch, capfd):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cv2.py").write_text("raise ImportError('libGL is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert "before its first image: the worker process ended with status 1" in refusal(tree, tmp_path / "out")
    assert "libGL is missing" in capfd.readouterr().err


ALONE = """
import sys
from pathlib import Path
import mem.data.beton.writer as partial
from mem.config import Folder
from mem.data.convert.convert import convert
from mem.data.datasets import read_dataset

partial._SYNC_SECONDS = 0.1
settings = Folder.model_validate_json(sys.argv[1])
convert(read_dataset(settings, 0), settings, Path(sys.argv[2]), 2)
"""


def started_alone(tree: Path, out: Path) -> subprocess.Popen:
    """A conversion in a process of its own."""
    settings = settings_for(tree).model_dump_json()
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, settings, str(out)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )


def journalled(out: Path) -> int:
    """Images that the journals list."""
    return sum(path.read_bytes().count(b"\n") - 1 for path in out.glob(".*.journal"))


def test_after_a_kill_of_everything_it_goes_on_and_no_worker_stays(tree, unbroken, slow, tmp_path):
    out = tmp_path / "out"
    process = started_alone(tree, out)
    deadline = time.monotonic() + 60
    while journalled(out) < 30:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    done = journalled(out)
    assert 30 <= done < sum(COUNTS.values())
    said: list[str] = []
    converted(tree, out, say=said.append)
    assert said[0].startswith(f"{done} of 210 images were converted by an earlier run")
    assert contents(out) == contents(unbroken)


def test_a_stage_that_is_asked_to_stop_goes_on_the_next_time(tree, unbroken, slow, tmp_path, mini_values):
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
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert "The same command goes on from there." in said
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    done = journalled(run)
    assert 0 < done < sum(COUNTS.values())
    finished = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=True)
    assert f"{done} of 210 images were converted by an earlier run; going on from there." in finished.stderr
    assert contents(run) == contents(unbroken)


def broken_off(tree: Path, out: Path, at: int) -> None:
    """Leave a conversion as an end after `at` images leaves it."""

    class Enough(Exception):
        pass

    from mem.data.beton.writer import BetonWriter

    count, add = 0, BetonWriter.add

    def counted(self, image) -> None:
        nonlocal count
        if count == at:
            raise Enough
        count += 1
        add(self, image)

    BetonWriter.add = counted
    try:
        converted(tree, out)
    except Enough:
        pass
    finally:
        BetonWriter.add = add


@pytest.mark.parametrize("at", [0, 1, 149, 150, 151, 209])
def test_broken_off_at_any_image_the_bytes_are_the_same(tree, unbroken, tmp_path, at):
    broken_off(tree, tmp_path, at)
    assert journalled(tmp_path) >= at
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(unbroken)


def test_broken_off_twice_the_bytes_are_the_same(tree, unbroken, tmp_path):
    broken_off(tree, tmp_path, 40)
    broken_off(tree, tmp_path, 70)
    assert journalled(tmp_path) == 110
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(unbroken)


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
def test_a_torn_journal_or_file_costs_images_and_never_the_truth(tree, unbroken, tmp_path, damage):
    broken_off(tree, tmp_path, 100)
    damage(tmp_path / ".train.beton.journal", tmp_path / ".train.beton.partial")
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(unbroken)


def test_what_other_settings_left_is_not_gone_on_with(tree, unbroken, tmp_path):
    broken_off(tree, tmp_path, 100)
    said: list[str] = []
    converted(tree, tmp_path, say=said.append, jpeg_quality=60)
    assert not said
    assert contents(tmp_path) != contents(unbroken)
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(unbroken)


def test_an_end_between_naming_the_files_is_gone_on_with(tree, unbroken, tmp_path, monkeypatch):
    from mem.data.convert import convert as module

    def first_only(partials) -> None:
        partials[0].publish()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "publish_all", first_only)
        with pytest.raises(KeyboardInterrupt):
            converted(tree, tmp_path)
    assert (tmp_path / "train.beton").exists()
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(unbroken)


def test_a_full_disk_ends_it_with_one_message_and_the_next_run_goes_on(tree, unbroken, tmp_path, monkeypatch):
    import errno

    from mem.data.beton import writer

    write, left = writer._write, 100_000

    def limited(descriptor, content, path, position=None) -> None:
        nonlocal left
        left -= len(content)
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(descriptor, content, path, position)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "_write", limited)
        message = refusal(tree, tmp_path)
    assert ".train.beton.partial: the disk is full, after" in message
    assert "run the same command: it goes on from there" in message
    assert not list(tmp_path.glob("*.beton"))
    converted(tree, tmp_path)
    assert contents(tmp_path) == contents(unbroken)
