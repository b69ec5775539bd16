"""Groupwise linear maps: values, gradients and autocast."""

import pytest
import torch

from mem.heads.mem.group_product import groupwise_linear


def tensors(groups: int, rows: int, inputs: int, outputs: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (groups, rows, inputs), (groups, inputs, outputs), (groups, 1, outputs)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 1, 1), (2, 7, 3, 1)])
def test_gradients_equal_finite_differences(shape):
    assert torch.autograd.gradcheck(groupwise_linear, tensors(*shape))


def test_values_and_gradients_equal_those_of_one_batched_product():
    x, weight, bias = tensors(3, 16, 8, 12)
    factor = torch.randn(3, 16, 12, dtype=torch.float64)
    ours = torch.autograd.grad((groupwise_linear(x, weight, bias) * factor).sum(), [x, weight, bias])
    theirs = torch.autograd.grad((torch.baddbmm(bias, x, weight) * factor).sum(), [x, weight, bias])
    torch.testing.assert_close(groupwise_linear(x, weight, bias), torch.baddbmm(bias, x, weight))
    torch.testing.assert_close(ours, theirs)


def test_groups_can_share_an_input_and_weights_can_be_slices():
    x, weight, bias = tensors(3, 16, 8, 12)
    shared = x[0].detach().requires_grad_()
    groupwise_linear(shared.expand(3, -1, -1), weight[..., 4:], bias[..., 4:]).square().sum().backward()
    ours = [shared.grad, weight.grad, bias.grad]
    copies = [tensor.detach().clone().requires_grad_() for tensor in (shared, weight, bias)]
    expected = torch.einsum("ri,gio->gro", copies[0], copies[1][..., 4:]) + copies[2][..., 4:]
    expected.square().sum().backward()
    torch.testing.assert_close(ours, [tensor.grad for tensor in copies])


def test_only_tensors_that_require_a_gradient_get_one():
    x, weight, bias = tensors(2, 4, 3, 5)
    (grad_weight,) = torch.autograd.grad(groupwise_linear(x.detach(), weight, bias.detach()).sum(), [weight])
    assert grad_weight.shape == weight.shape
    with torch.no_grad():
        assert not groupwise_linear(x, weight, bias).requires_grad


def test_autocast_uses_the_batched_product():
    x, weight, bias = (tensor.detach().float().requires_grad_() for tensor in tensors(2, 16, 8, 4))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = groupwise_linear(x, weight, bias), torch.baddbmm(bias, x, weight)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)
    ours.float().sum().backward()
