"""Several ranks on this machine, as real processes that communicate over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from mem.distributed import World, world_from_environment
from mem.errors import UserError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(code: str, ranks: int, folder: Path) -> list[str]:
    """Run a program once per rank and return what each one printed."""
    script = folder / "rank.py"
    script.write_text(textwrap.dedent(code))
    port = str(free_port())
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in outputs]


def test_a_single_process_has_a_world_of_size_one(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with world_from_environment() as world:
        value = torch.tensor([2.0])
        assert (world.size, world.is_main, world.any(True), world.from_main("x")) == (1, True, True, "x")
        assert torch.equal(world.mean(value), value)
        assert torch.equal(world.sum(value), value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT is not set"),
    ],
)
def test_an_invalid_environment_raises_an_error_with_the_variable(monkeypatch, variables, expected):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected), world_from_environment():
        pass


@pytest.mark.stage
def test_collective_operations_agree_on_all_ranks(tmp_path):
    outputs = run_ranks(
        """
        import torch
        from mem.distributed import world_from_environment
        with world_from_environment() as world:
            value = torch.tensor([float(world.rank)])
            print(world.size, world.mean(value).item(), world.sum(value).item(),
                  world.any(world.rank == 1), world.any(False), world.from_main({"from": world.rank}))
            world.barrier()
        """,
        3,
        tmp_path,
    )
    assert outputs == ["3 1.0 3.0 True False {'from': 0}\n"] * 3


TRAIN = """
import numpy as np
import torch
from mem.train.checkpoints import Checkpoints
from mem.config import Augmentation, TimmNetwork, Training, VisionTransformer
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.shard import RankShard
from mem.data.loading.samplers import InstanceSampler
from mem.distributed import world_from_environment
from mem.train.step import StepOptions
from mem.train.state import TrainState
from mem.train.loop import fit
from mem.models.backbones import build
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.train.optimizers import backbone_optimizer
from mem.train.context import FitContext
from mem.train.schedules import Schedule, cosine
from mem.stages.finetune import classification
from pathlib import Path

FOLDER = Path("{folder}")

with world_from_environment() as world:
    torch.manual_seed(0)
    rest = dict(epochs=10, warmup_epochs=1, global_batch=12, base_lr=1e-3, min_lr=0, precision="fp32", ema_decay=0.9)
    norm_batch = {norm_batch}
    if norm_batch is None:
        backbone = VisionTransformer(name="v", kind="vit", image_size=8, patch_size=4, width=16, depth=2, heads=2,
                                     center_crop=1.0)
        settings = Training(betas=(0.9, 0.999), weight_decay=0.05, **rest)
    else:
        about = dict(name="c", model="resnet10t", image_size=8, center_crop=1)
        backbone = TimmNetwork(kind="timm", norm_batch=norm_batch, **about)
        settings = Training(optimizer="sgd", momentum=0.9, weight_decay=5e-4, decay_all=True, **rest)
    model = build(backbone, 5, drop_path=0.4).double()
    torch.nn.init.normal_(model.linear.weight, std=0.1)
    groups = layer_decay_groups(model, settings.weight_decay, 0.8, decay_all=settings.decay_all)
    state = TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)
    images = Beton(FOLDER / "train.beton")
    augmentation = Augmentation(crop_scale=(0.4, 1.0), flip=True)
    shard = RankShard(world.rank, world.size)
    data = TrainingImages(images, InstanceSampler(len(images), 0), 12, 8, augmentation, 0, 1, shard)
    pixels = Pixels((0.5,) * 3, (0.25,) * 3, torch.float64)
    context = FitContext("test", world, Checkpoints(FOLDER / "checkpoints-{name}", "key", 1e9, print, world))
    fit(state, data, classification(pixels, 0.1, model.branches), Schedule(10, 3.0, cosine(1e-2, 10)), context,
        StepOptions(micro_batch={micro_batch}))
    if world.is_main:
        torch.save({{"model": model.state_dict(), "average": state.ema.state_dict()}}, FOLDER / "{name}.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with images and with the weights that one process learns from them."""
    import numpy as np

    from tests.beton_files import write_beton

    folder = tmp_path_factory.mktemp("ranks")
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    write_beton(folder / "train.beton", list(images), np.arange(37) % 5)
    for norm_batch in (None, 6, 12):
        name = f"one-{norm_batch}"
        run_ranks(TRAIN.format(folder=folder, name=name, micro_batch=None, norm_batch=norm_batch), 1, folder)
    return folder


@pytest.mark.stage
@pytest.mark.parametrize(
    ("ranks", "micro_batch", "norm_batch"),
    [
        (1, 5, None),
        (2, None, None),
        (2, 4, None),
        (4, None, None),
        (1, 6, 6),
        (2, None, 6),  # each BatchNorm group is one rank's part of the batch
        (4, None, 6),  # a group spans two ranks
        (4, None, 12),  # a group spans all ranks
    ],
)
def test_several_ranks_learn_the_same_weights_as_one_process(folder, ranks, micro_batch, norm_batch):
    name = f"{ranks}-{micro_batch}-{norm_batch}"
    code = TRAIN.format(folder=folder, name=name, micro_batch=micro_batch, norm_batch=norm_batch)
    run_ranks(code, ranks, folder)
    one, many = (torch.load(folder / f"{n}.pt", weights_only=True) for n in (f"one-{norm_batch}", name))
    torch.testing.assert_close(many, one, rtol=1e-10, atol=1e-10)
    assert not torch.equal(one["model"][LAST[norm_batch is None]], one["average"][LAST[norm_batch is None]])


LAST = {True: "backbone.head.weight", False: "backbone.fc.weight"}


def test_rank_0_is_the_main_rank():
    assert World(0, 4).is_main
    assert not World(3, 4).is_main
