"""The linear map of all groups."""

import pytest
import torch

from mem.heads.mem.group_product import group_linear


def tensors(groups: int, rows: int, inputs: int, outputs: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (groups, rows, inputs), (groups, inputs, outputs), (groups, 1, outputs)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 1, 1), (2, 7, 3, 1)])
def test_its_gradients_are_those_of_finite_differences(shape):
    assert torch.autograd.gradcheck(group_linear, tensors(*shape))


def test_values_and_gradients_are_those_of_one_batched_product():
    x, weight, bias = tensors(3, 16, 8, 12)
    seen = torch.randn(3, 16, 12, dtype=torch.float64)
    ours = torch.autograd.grad((group_linear(x, weight, bias) * seen).sum(), [x, weight, bias])
    theirs = torch.autograd.grad((torch.baddbmm(bias, x, weight) * seen).sum(), [x, weight, bias])
    torch.testing.assert_close(group_linear(x, weight, bias), torch.baddbmm(bias, x, weight))
    torch.testing.assert_close(ours, theirs)


def test_groups_may_share_their_input_and_slices_their_weights():
    x, weight, bias = tensors(3, 16, 8, 12)
    shared = x[0].detach().requires_grad_()
    group_linear(shared.expand(3, -1, -1), weight[..., 4:], bias[..., 4:]).square().sum().backward()
    ours = [shared.grad, weight.grad, bias.grad]
    again = [tensor.detach().clone().requires_grad_() for tensor in (shared, weight, bias)]
    expected = torch.einsum("ri,gio->gro", again[0], again[1][..., 4:]) + again[2][..., 4:]
    expected.square().sum().backward()
    torch.testing.assert_close(ours, [tensor.grad for tensor in again])


def test_what_needs_no_gradient_gets_none():
    x, weight, bias = tensors(2, 4, 3, 5)
    (of_weight,) = torch.autograd.grad(group_linear(x.detach(), weight, bias.detach()).sum(), [weight])
    assert of_weight.shape == weight.shape
    with torch.no_grad():
        assert not group_linear(x, weight, bias).requires_grad


def test_under_autocast_it_computes_as_a_batched_product_does():
    x, weight, bias = (tensor.detach().float().requires_grad_() for tensor in tensors(2, 16, 8, 4))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = group_linear(x, weight, bias), torch.baddbmm(bias, x, weight)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
    ours.float().sum().backward()
