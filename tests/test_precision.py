"""The precision in which a device computes."""

from __future__ import annotations

import pytest
import torch

from mem.precision import autocast, is_supported
from mem.processor import vector_instructions

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_float32_is_always_supported():
    assert is_supported("fp32", CPU)
    assert is_supported("fp32", GPU)


@pytest.mark.skipif(vector_instructions() not in {"AVX-512", "AVX2"}, reason="needs an x86 processor")
def test_a_processor_without_avx_512_lacks_bfloat16():
    assert is_supported("bf16", CPU) == (vector_instructions() == "AVX-512")


def test_a_build_of_torch_without_onednn_lacks_both_types(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not is_supported("bf16", CPU)
    assert not is_supported("fp16", CPU)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bfloat16_lacks_it(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert is_supported("bf16", GPU) == native
    assert is_supported("fp16", GPU)


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_run_in_the_precision(precision, expected):
    with autocast(precision, CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == expected
