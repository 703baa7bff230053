"""What the check before each call of a kernel refuses."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from crnn_search.kernels import compiler, native, ops
from crnn_search.kernels.signatures import SIGNATURES

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.uint8: "uint8_t",
}


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def moments(values: Tensor, **changed: Tensor) -> None:
    sums = torch.zeros(2, 3, dtype=torch.float64)
    sizes = {"images": 2, "rows": 4, "columns": 5, "channels": 3}
    arrays = {"maps": values, "sums": sums[0], "squares": sums[1], **changed}
    native.call("map_moments", sizes, **arrays)


def test_valid_call_is_not_refused() -> None:
    moments(maps(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (maps(2, 3, 4, 5, dtype=torch.float16), "maps must be bfloat16 or float32 .* float16"),
        (maps(2, 3, 4, 5).contiguous(), "maps must be .* channels last, .* strides"),
        (maps(2, 3, 4, 6)[..., :5], "maps must be .* channels last, .* strides"),
        (maps(2, 3, 5, 5), r"of shape \(2, 3, 4, 5\), .* of shape \(2, 3, 5, 5\)"),
        (maps(2, 3, 4, 5).to("meta"), "on the CPU; received .* on meta"),
    ],
)
def test_wrong_dtype_layout_shape_and_device_are_refused(values: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"map_moments: .*{message}"):
        moments(values)


def test_wrong_array_by_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sums must be float64 of shape .*; received float32"):
        moments(maps(2, 3, 4, 5), sums=torch.zeros(3))


def test_missing_array_is_refused() -> None:
    with pytest.raises(ValueError, match="map_moments: sums is missing"):
        native.call(
            "map_moments", {"images": 2, "rows": 4, "columns": 5, "channels": 3},
            maps=maps(2, 3, 4, 5), sums=None, squares=torch.zeros(3),
        )  # fmt: skip


@pytest.mark.parametrize("pool", [0, 5])
def test_pooling_outside_1_to_4_is_refused(pool: int) -> None:
    by_channel = torch.ones(3), torch.zeros(3), torch.zeros(3)
    pooled = maps(2, 3, 1, 1)
    with pytest.raises(ValueError, match=f"pool must be 1 to 4, received {pool}"):
        ops.pool_backward(pooled, pooled.to(torch.uint8), maps(2, 3, 8, 8), pool, by_channel)


def test_kernel_larger_than_the_buffers_is_refused() -> None:
    stem = ops.Stem(inputs=1, rows=28, columns=28, pool=1, kernel=10, channels=8, before=0, after=0)
    pixels = torch.zeros(1, 1, 28, 28)
    with pytest.raises(ValueError, match="kernel must be 1 to 9, received 10"):
        ops.stem_forward(pixels, stem, torch.zeros(8, 100), torch.zeros(8), torch.float32)


def test_maps_of_two_dtypes_are_refused() -> None:
    grad, argmax = maps(2, 3, 4, 5), maps(2, 3, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="all maps must have one dtype, selected has another"):
        ops.pool_backward_sums(grad, argmax, grad.bfloat16())


@pytest.mark.parametrize("kernel", SIGNATURES)
def test_c_has_the_same_parameters_in_the_same_order(kernel: str) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in compiler.SOURCES.glob("*.c"))
    found = re.search(rf"^void {kernel}\(([^)]*)\) {{", text, re.MULTILINE)
    assert found
    parameters = [re.split(r"\s+", text.strip()) for text in found[1].split(",")]
    signature = SIGNATURES[kernel]
    names = [*signature.sizes, *(array.name for array in signature.arrays)]
    assert [words[-1].lstrip("*") for words in parameters] == names
    sizes, pointers = parameters[: len(signature.sizes)], parameters[len(signature.sizes) :]
    assert [words[0] for words in sizes] == ["long", *["int"] * (len(sizes) - 1)]
    for words, array in zip(pointers, signature.arrays, strict=True):
        assert words[-2] == ("void" if array.is_f32 else C_TYPES[array.dtypes[0]])
        assert words[-1].startswith("*")


def test_every_exported_function_has_a_signature() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in compiler.SOURCES.glob("*.c"))
    assert set(re.findall(r"^(?!static|INLINE|typedef)\w+ \*?(\w+)\(", text, re.MULTILINE)) == set(
        SIGNATURES
    )
