"""The evaluator's quantization: levels and stored weights, against numpy and against how they are packed by hand."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from coreml_programs import FLOAT_TYPES, Array, assert_close, builder, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sr.errors import RunnerError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

few = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(FLOAT_TYPES)
LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def wide(x: Array) -> Array:
    return x.astype(np.float64)


def weighed(build_weight: Any, dtype: Any, shape: tuple[int, ...], *, opset: str) -> Array:
    """What a stored weight is decompressed to, seen through 0 + weight."""
    x = np.zeros(shape, dtype)
    (got,) = evaluate(lambda x: builder().add(x=x, y=build_weight()), {"x": x}, opset=opset)
    assert got.dtype == dtype
    return got


@pytest.mark.parametrize("stored", LIMITS)
@few
@given(seed=seeds, dtype=dtypes, per_channel=st.booleans(), centred=st.booleans(), axis=st.integers(-3, 2))
def test_quantize_rounds_to_even_and_saturates_and_dequantize_returns(
    stored: str, seed: int, dtype: Any, per_channel: bool, centred: bool, axis: int
) -> None:
    rng, shape, mb = np.random.default_rng(seed), (2, 3, 4), builder()
    low, high = LIMITS[stored]
    count = shape[axis] if per_channel else 1
    scale = (2.0 ** rng.integers(-6, -2, count)).astype(dtype)  # quotients are exact, so ties are ties
    zero_point = None if centred else rng.integers(low, high + 1, count).astype(stored)
    x = (rng.integers(-700, 700, shape) / 2 * 2.0**-4).astype(dtype)
    grid: dict[str, Any] = {"scale": scale if per_channel else scale[0]}
    if zero_point is not None:
        grid["zero_point"] = zero_point if per_channel else zero_point[0]
    if per_channel:
        grid["axis"] = axis

    def build(x: Any) -> Any:
        levels = mb.quantize(input=x, output_dtype=stored, **grid)
        return mb.cast(x=levels, dtype="int32"), mb.dequantize(input=levels, **grid)

    levels, back = evaluate(build, {"x": x})
    along = [-1 if at == axis % 3 else 1 for at in range(3)] if per_channel else [1, 1, 1]
    steps, offset = wide(scale).reshape(along), 0 if zero_point is None else wide(zero_point).reshape(along)
    expected = np.clip(np.rint(wide(x) / steps) + offset, low, high)
    np.testing.assert_array_equal(levels, expected)
    assert_close(back, (expected - offset) * steps, dtype)


def test_infinity_saturates_and_nan_is_no_level() -> None:
    mb, x = builder(), np.array([np.inf, -np.inf], np.float32)

    def build(x: Any) -> Any:
        return mb.cast(x=mb.quantize(input=x, scale=np.float32(1), output_dtype="int8"), dtype="int32")

    assert evaluate(build, {"x": x})[0].tolist() == [127, -128]
    with pytest.raises(RunnerError, match=r"expected quantize '\w+' .* to run, got NaN to quantize"):
        evaluate(build, {"x": x + np.array([np.nan, 0], np.float32)})


@pytest.mark.parametrize("stored", LIMITS)
@few
@given(seed=seeds, dtype=dtypes, per_channel=st.booleans(), axis=st.integers(0, 1))
def test_affine_weights(stored: str, seed: int, dtype: Any, per_channel: bool, axis: int) -> None:
    rng, shape = np.random.default_rng(seed), (3, 4)
    low, high = LIMITS[stored]
    levels = rng.integers(low, high + 1, shape).astype(stored)
    count = shape[axis] if per_channel else 1
    scale, zero_point = rng.uniform(0.01, 0.1, count).astype(dtype), rng.integers(low, high + 1, count).astype(stored)
    if not per_channel:
        scale, zero_point = scale[0], zero_point[0]
    got = weighed(
        lambda: builder().constexpr_affine_dequantize(
            quantized_data=levels, scale=scale, zero_point=zero_point, axis=axis
        ),
        dtype,
        shape,
        opset="iOS16",
    )
    along = ([-1, 1] if axis == 0 else [1, -1]) if per_channel else [1, 1]
    expected = (wide(levels) - wide(zero_point).reshape(along)) * wide(scale).reshape(along)
    assert_close(got, expected, dtype)


@pytest.mark.parametrize(("stored", "limits"), [("int4", (-8, 7)), ("uint4", (0, 15)), ("int8", (-128, 127))])
@few
@given(seed=seeds, dtype=dtypes, blocks=st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 2, 4])))
def test_blockwise_weights_of_four_and_eight_bits(
    stored: str, limits: tuple[int, int], seed: int, dtype: Any, blocks: tuple[int, int]
) -> None:
    from coremltools.converters.mil.mil import types

    rng, shape = np.random.default_rng(seed), (3, 4)
    levels = rng.integers(limits[0], limits[1] + 1, shape)
    offsets = rng.integers(limits[0], limits[1] + 1, blocks)
    scales = rng.uniform(0.01, 0.1, blocks).astype(dtype)
    narrow = types.nptype_from_builtin(types.string_to_builtin(stored))
    got = weighed(
        lambda: builder().constexpr_blockwise_shift_scale(
            data=levels.astype(narrow), scale=scales, offset=offsets.astype(narrow)
        ),
        dtype,
        shape,
        opset="iOS18",
    )
    expected = np.empty(shape)
    for row, column in np.ndindex(*shape):
        block = row * blocks[0] // 3, column * blocks[1] // 4
        expected[row, column] = float(scales[block]) * (levels[row, column] - offsets[block])
    assert_close(got, expected, dtype)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@few
@given(seed=seeds, dtype=dtypes, shape=st.tuples(st.integers(1, 3), st.integers(1, 5)))
def test_tables_of_ios16_are_read_from_their_lowest_bits(
    bits: int, seed: int, dtype: Any, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    table, indices = rng.uniform(-1, 1, 2**bits).astype(dtype), rng.integers(0, 2**bits, shape)
    number = sum(int(index) << (bits * place) for place, index in enumerate(indices.ravel()))
    packed = np.frombuffer(number.to_bytes(-(-bits * indices.size // 8), "little"), np.uint8).copy()
    got = weighed(
        lambda: builder().constexpr_lut_to_dense(indices=packed, lut=table, shape=np.array(shape, np.uint32)),
        dtype,
        shape,
        opset="iOS16",
    )
    np.testing.assert_array_equal(got, table[indices])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("vector_axis", [None, 0, 1])
@settings(few, max_examples=5)
@given(seed=seeds, dtype=dtypes, groups=st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 3)]))
def test_tables_of_ios18_by_group_and_of_vectors(
    bits: int, vector_axis: int | None, seed: int, dtype: Any, groups: tuple[int, int]
) -> None:
    from coremltools.converters.mil.mil import types

    rng, shape, width = np.random.default_rng(seed), (4, 3), 1 if vector_axis is None else 2
    table = rng.uniform(-1, 1, (*groups, 2**bits, width)).astype(dtype)
    indices = rng.integers(0, 2**bits, shape)
    narrow = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
    expected = np.empty([size * (width if axis == vector_axis else 1) for axis, size in enumerate(shape)], dtype)
    for row, column in np.ndindex(*shape):
        vector = table[row * groups[0] // 4, column * groups[1] // 3, indices[row, column]]
        for at in range(width):
            rows = row * width + at if vector_axis == 0 else row
            columns = column * width + at if vector_axis == 1 else column
            expected[rows, columns] = vector[at]
    attributes = {} if vector_axis is None else {"vector_axis": vector_axis}
    got = weighed(
        lambda: builder().constexpr_lut_to_dense(indices=indices.astype(narrow), lut=table, **attributes),
        dtype,
        expected.shape,
        opset="iOS18",
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
@few
@given(seed=seeds, dtype=dtypes, shape=st.tuples(st.integers(1, 3), st.integers(2, 5)))
def test_sparse_weights(opset: str, seed: int, dtype: Any, shape: tuple[int, int]) -> None:
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(seed)
    dense = (rng.uniform(0.5, 1, shape) * (rng.random(shape) < 0.5)).astype(dtype)
    dense[0, 0] = 1  # no constant without a value
    mask = dense != 0

    def build() -> Any:
        if opset == "iOS18":
            narrow = types.nptype_from_builtin(types.uint1)
            return builder().constexpr_sparse_to_dense(nonzero_data=dense[mask], mask=mask.astype(narrow))
        packed = np.packbits(mask.ravel(), bitorder="little")
        return builder().constexpr_sparse_to_dense(
            nonzero_data=dense[mask], mask=packed, shape=np.array(shape, np.uint32)
        )

    np.testing.assert_array_equal(weighed(build, dtype, shape, opset=opset), dense)


def test_float16_weights_may_be_stored_for_float32() -> None:
    stored = np.linspace(-1, 1, 7).astype(np.float16)
    got = weighed(
        lambda: builder().constexpr_cast(source_val=stored, output_dtype="fp32"), np.float32, (7,), opset="iOS16"
    )
    np.testing.assert_array_equal(got, stored.astype(np.float32))
