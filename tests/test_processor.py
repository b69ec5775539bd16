"""The name and the vector instructions of a processor, from the kernel's description."""

from __future__ import annotations

import pytest

from mem import processor

X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 {flags}\n\n" * 2
ARM = "processor\t: 0\nFeatures\t: fp asimd {flags}\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format(flags="avx avx2 avx512f"), "AVX-512"),
        (X86.format(flags="avx avx2"), "AVX2"),
        (X86.format(flags=""), ""),
        (ARM.format(flags="sve"), "SVE"),
        (ARM.format(flags=""), "NEON"),
        ("", ""),
    ],
)
def test_the_widest_vector_instructions_are_named(text, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    assert processor.vector_instructions() == expected
    if "AMD" in text:
        assert processor.processor_name() == "AMD EPYC"


def test_a_system_without_a_description_has_no_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr("platform.processor", lambda: "arm")  # which starts a process
    assert processor.vector_instructions() == ""
    assert processor.processor_name() == "arm"
