"""The evaluator's layers (convolution, pooling, products, normalisation) against explicit sums in float64."""

from __future__ import annotations

import importlib.util
import itertools
import math
from typing import Any

import numpy as np
import pytest
from coreml_programs import FLOAT_TYPES, Array, assert_close, builder, evaluate
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_sr.errors import RunnerError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

few = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(FLOAT_TYPES)
sizes = st.integers(1, 4)


def draw(seed: int, shape: tuple[int, ...], dtype: Any, low: float = -1, high: float = 1) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def wide(x: Array) -> Array:
    return x.astype(np.float64)


def pads_of(kind: str, custom: list[int], shape: tuple[int, ...], extents: list[int], strides: list[int]) -> list[Any]:
    """(before, after) of each axis. "same": as many outputs as strides fit in, an odd element after."""
    if kind == "valid":
        return [(0, 0)] * len(shape)
    if kind == "custom":
        return [tuple(custom[2 * axis : 2 * axis + 2]) for axis in range(len(shape))]
    found = []
    for size, extent, stride in zip(shape, extents, strides, strict=True):
        outputs = -(-size // stride)
        needed = max(0, (outputs - 1) * stride + extent - size)
        found.append((needed // 2, needed - needed // 2) if kind == "same" else (needed - needed // 2, needed // 2))
    return found


def convolved(x: Array, weight: Array, strides: list[int], dilations: list[int], groups: int) -> Array:
    """Convolution without padding, one tap of the kernel after the other."""
    kernel = weight.shape[2:]
    spatial = [
        (size - (taps - 1) * dilation - 1) // stride + 1
        for size, taps, dilation, stride in zip(x.shape[2:], kernel, dilations, strides, strict=True)
    ]
    per_group_in, per_group_out = x.shape[1] // groups, weight.shape[0] // groups
    out = np.zeros((x.shape[0], weight.shape[0], *spatial))
    for group, tap in itertools.product(range(groups), np.ndindex(*kernel)):
        window = tuple(
            slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
            for at, dilation, count, stride in zip(tap, dilations, spatial, strides, strict=True)
        )
        ins = x[:, group * per_group_in : (group + 1) * per_group_in][(slice(None), slice(None), *window)]
        outs = slice(group * per_group_out, (group + 1) * per_group_out)
        out[:, outs] += np.einsum("oi,ni...->no...", weight[outs][(slice(None), slice(None), *tap)], ins)
    return out


@st.composite
def convolutions(draw_one: st.DrawFn) -> dict[str, Any]:
    rank = draw_one(st.integers(1, 3))
    groups = draw_one(st.integers(1, 2))
    vector = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    return {
        "rank": rank,
        "groups": groups,
        "ins": groups * draw_one(st.integers(1, 2)),
        "outs": groups * draw_one(st.integers(1, 2)),
        "kernel": draw_one(vector),
        "strides": draw_one(vector),
        "dilations": draw_one(vector),
        "shape": tuple(draw_one(st.lists(st.integers(3, 8), min_size=rank, max_size=rank))),
        "pad": draw_one(st.lists(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank)),
        "bias": draw_one(st.booleans()),
    }


@pytest.mark.parametrize("pad_type", ["valid", "custom", "same", "same_lower"])
@few
@given(case=convolutions(), seed=seeds, dtype=dtypes)
def test_convolution_is_the_sum_over_its_taps(pad_type: str, case: dict[str, Any], seed: int, dtype: Any) -> None:
    strides, dilations, groups = case["strides"], case["dilations"], case["groups"]
    extents = [(taps - 1) * dilation + 1 for taps, dilation in zip(case["kernel"], dilations, strict=True)]
    pads = pads_of(pad_type, case["pad"], case["shape"], extents, strides)
    assume(all(n + sum(p) >= e for n, p, e in zip(case["shape"], pads, extents, strict=True)))
    x = draw(seed, (2, case["ins"], *case["shape"]), dtype)
    weight = draw(seed + 1, (case["outs"], case["ins"] // groups, *case["kernel"]), dtype)
    bias = draw(seed + 2, (case["outs"],), dtype) if case["bias"] else None
    attributes = {"pad": case["pad"]} if pad_type == "custom" else {}
    if bias is not None:
        attributes["bias"] = bias

    def build(x: Any) -> Any:
        return builder().conv(
            x=x, weight=weight, strides=strides, dilations=dilations, groups=groups, pad_type=pad_type, **attributes
        )

    (got,) = evaluate(build, {"x": x})
    expected = convolved(np.pad(wide(x), [(0, 0), (0, 0), *pads]), wide(weight), strides, dilations, groups)
    expected += 0 if bias is None else wide(bias).reshape(-1, *[1] * case["rank"])
    assert_close(got, expected, dtype, absolute=2e-5)


def test_same_puts_the_odd_element_last_and_same_lower_first() -> None:
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4)
    weight, mb = np.array([[[1.0, 10.0]]], np.float32), builder()
    got = evaluate(lambda x: [mb.conv(x=x, weight=weight, pad_type=kind) for kind in ("same", "same_lower")], {"x": x})
    assert got[0].ravel().tolist() == [21, 32, 43, 4]
    assert got[1].ravel().tolist() == [10, 21, 32, 43]


@pytest.mark.parametrize("pad_type", ["valid", "custom", "same"])
@few
@given(case=convolutions(), seed=seeds, dtype=dtypes)
def test_transposed_convolution_spreads_each_value(pad_type: str, case: dict[str, Any], seed: int, dtype: Any) -> None:
    strides, dilations, groups, rank = case["strides"], case["dilations"], case["groups"], case["rank"]
    x = draw(seed, (2, case["ins"], *case["shape"]), dtype)
    weight = draw(seed + 1, (case["ins"], case["outs"] // groups, *case["kernel"]), dtype)
    bias = draw(seed + 2, (case["outs"],), dtype)
    full_shape = [
        (size - 1) * stride + (taps - 1) * dilation + 1
        for size, stride, taps, dilation in zip(case["shape"], strides, case["kernel"], dilations, strict=True)
    ]
    full = np.zeros((2, case["outs"], *full_shape))
    ins, outs = case["ins"] // groups, case["outs"] // groups
    for group, tap in itertools.product(range(groups), np.ndindex(*case["kernel"])):
        window = tuple(
            slice(at * dilation, at * dilation + (size - 1) * stride + 1, stride)
            for at, dilation, size, stride in zip(tap, dilations, case["shape"], strides, strict=True)
        )
        block = slice(group * ins, (group + 1) * ins)
        full[(slice(None), slice(group * outs, (group + 1) * outs), *window)] += np.einsum(
            "io,ni...->no...", wide(weight)[block][(slice(None), slice(None), *tap)], wide(x)[:, block]
        )
    for axis in range(rank):
        size = full.shape[2 + axis]
        before, length = 0, size
        if pad_type == "custom":
            before, length = case["pad"][2 * axis], size - sum(case["pad"][2 * axis : 2 * axis + 2])
        elif pad_type == "same":
            length = case["shape"][axis] * strides[axis]
            before = max(0, size - length) // 2
        assume(length > 0)
        beyond = max(0, before + length - size)  # where strides leave gaps after the last tap
        full = np.pad(full, [(0, beyond if at == 2 + axis else 0) for at in range(rank + 2)])
        full = full.take(range(before, before + length), axis=2 + axis)
    attributes = {"pad": case["pad"]} if pad_type == "custom" else {}

    def build(x: Any) -> Any:
        return builder().conv_transpose(
            x=x,
            weight=weight,
            bias=bias,
            strides=strides,
            dilations=dilations,
            groups=groups,
            pad_type=pad_type,
            **attributes,
        )

    (got,) = evaluate(build, {"x": x})
    assert_close(got, full + wide(bias).reshape(-1, *[1] * rank), dtype, absolute=2e-5)


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool", "l2_pool"])
@pytest.mark.parametrize("pad_type", ["valid", "custom", "same", "same_lower"])
@settings(few, max_examples=12)
@given(case=convolutions(), seed=seeds, dtype=dtypes, exclude=st.booleans())
def test_pooling_looks_through_its_window(
    kind: str, pad_type: str, case: dict[str, Any], seed: int, dtype: Any, exclude: bool
) -> None:
    rank, strides, kernel = case["rank"], case["strides"], case["kernel"]
    assume(kind != "l2_pool" or rank < 3)
    pad = [size % kernel[side // 2] for side, size in enumerate(case["pad"])]  # no window lies outside of x
    pads = pads_of(pad_type, pad, case["shape"], kernel, strides)
    x = draw(seed, (2, 2, *case["shape"]), dtype)
    attributes: dict[str, Any] = {"pad": pad} if pad_type == "custom" else {}
    if kind == "avg_pool":
        attributes["exclude_padding_from_average"] = exclude

    def build(x: Any) -> Any:
        return getattr(builder(), kind)(x=x, kernel_sizes=kernel, strides=strides, pad_type=pad_type, **attributes)

    (got,) = evaluate(build, {"x": x})
    padded = np.pad(wide(x), [(0, 0), (0, 0), *pads], constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=tuple(range(2, 2 + rank)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))]
    inside = tuple(range(-rank, 0))
    if kind == "max_pool":
        expected = np.nanmax(windows, axis=inside)
    elif kind == "l2_pool":
        expected = np.sqrt(np.nansum(windows**2, axis=inside))
    else:
        count = np.sum(~np.isnan(windows), axis=inside) if exclude else math.prod(kernel)
        expected = np.nansum(windows, axis=inside) / count
    assert_close(got, expected, dtype)


def test_pooling_with_sizes_rounded_up() -> None:
    x, mb = np.arange(5, dtype=np.float32).reshape(1, 1, 5), builder()
    given_ = {"kernel_sizes": [2], "strides": [2], "pad_type": "valid", "ceil_mode": True}
    largest, mean = evaluate(lambda x: (mb.max_pool(x=x, **given_), mb.avg_pool(x=x, **given_)), {"x": x})
    assert largest.ravel().tolist() == [1, 3, 4]
    assert mean.ravel().tolist() == [0.5, 2.5, 4]


@few
@given(seed=seeds, dtype=dtypes, lead=st.lists(sizes, max_size=2), n=sizes, k=sizes, m=sizes, flips=st.integers(0, 3))
def test_matrix_products(seed: int, dtype: Any, lead: list[int], n: int, k: int, m: int, flips: int) -> None:
    flip_x, flip_y = bool(flips & 1), bool(flips & 2)
    x, y = draw(seed, (*lead, n, k), dtype), draw(seed + 1, (*lead, k, m), dtype)
    weight, bias, mb = draw(seed + 2, (m, k), dtype), draw(seed + 3, (m,), dtype), builder()
    given_x, given_y = x.swapaxes(-1, -2) if flip_x else x, y.swapaxes(-1, -2) if flip_y else y
    got = evaluate(
        lambda x, y, z: (
            mb.matmul(x=x, y=y, transpose_x=flip_x, transpose_y=flip_y),
            mb.linear(x=z, weight=weight, bias=bias),
        ),
        {"x": np.ascontiguousarray(given_x), "y": np.ascontiguousarray(given_y), "z": x},
    )
    assert_close(got[0], wide(x) @ wide(y), dtype)
    assert_close(got[1], wide(x) @ wide(weight).T + wide(bias), dtype)


@few
@given(seed=seeds, dtype=dtypes, b=sizes, n=sizes, k=sizes, e=sizes, masked=st.booleans())
def test_attention_and_einsum(seed: int, dtype: Any, b: int, n: int, k: int, e: int, masked: bool) -> None:
    query, key, value = draw(seed, (b, n, e), dtype), draw(seed + 1, (b, k, e), dtype), draw(seed + 2, (b, k, e), dtype)
    mask, mb = draw(seed + 3, (b, n, k), dtype), builder()
    logits = np.einsum("bne,bke->bnk", wide(query), wide(key)) / np.sqrt(e) + (wide(mask) if masked else 0)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    def build(q: Any, k: Any, v: Any, m: Any) -> Any:
        attributes = {"attn_mask": m} if masked else {}
        attended = mb.scaled_dot_product_attention(query=q, key=k, value=v, **attributes)
        # the one equation of rank 3 that MIL has
        product = mb.einsum(values=(q, mb.transpose(x=q, perm=[2, 1, 0])), equation="chw,whr->chr")
        return attended, product, mb.identity(x=m)

    got = evaluate(build, {"q": query, "k": key, "v": value, "m": mask}, opset="iOS18")
    assert_close(got[0], weights @ wide(value), dtype, absolute=1e-5)
    assert_close(got[1], np.einsum("bne,cne->bnc", wide(query), wide(query)), dtype)


@few
@given(
    seed=seeds, dtype=dtypes, shape=st.tuples(sizes, sizes, st.integers(2, 5), st.integers(2, 5)), affine=st.booleans()
)
def test_normalisations(seed: int, dtype: Any, shape: tuple[int, ...], affine: bool) -> None:
    x, channels, mb = draw(seed, shape, dtype, -3, 3), shape[1], builder()
    gamma, beta = draw(seed + 1, (channels,), dtype), draw(seed + 2, (channels,), dtype)
    mean, variance = draw(seed + 3, (channels,), dtype), draw(seed + 4, (channels,), dtype, 0.1, 2)
    weight, shift = draw(seed + 5, shape[2:], dtype), draw(seed + 6, shape[2:], dtype)
    epsilon = dtype(0.125)
    norm = {"gamma": gamma, "beta": beta} if affine else {}
    layer = {"gamma": weight, "beta": shift} if affine else {}
    got = evaluate(
        lambda x: (
            mb.batch_norm(x=x, mean=mean, variance=variance, epsilon=epsilon, **norm),
            mb.instance_norm(x=x, epsilon=epsilon, **norm),
            mb.layer_norm(x=x, axes=[2, -1], epsilon=epsilon, **layer),
            mb.l2_norm(x=x, epsilon=epsilon),
            mb.local_response_norm(x=x, size=3, alpha=dtype(0.5), beta=dtype(0.75), k=dtype(1.5)),
        ),
        {"x": x},
    )
    values, c = wide(x), (slice(None), None, None)
    scale, offset = (wide(gamma)[c], wide(beta)[c]) if affine else (1.0, 0.0)
    weights, shifts = (wide(weight), wide(shift)) if affine else (1.0, 0.0)
    centred = values - values.mean((2, 3), keepdims=True)
    own = centred / np.sqrt(values.var((2, 3), keepdims=True) + 0.125)
    squares = np.pad(values**2, [(0, 0), (1, 1), (0, 0), (0, 0)])
    around = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    expected = (
        (values - wide(mean)[c]) / np.sqrt(wide(variance)[c] + 0.125) * scale + offset,
        own * scale + offset,
        own * weights + shifts,
        values / np.sqrt((values**2).sum((1, 2, 3), keepdims=True) + 0.125),
        values / (1.5 + 0.5 / 3 * around) ** 0.75,
    )
    for one, reference in zip(got, expected, strict=True):
        assert_close(one, reference, dtype, absolute=1e-5)


def test_what_no_description_settles_is_refused() -> None:
    mb, x = builder(), np.zeros((1, 4, 5), np.float32)
    with pytest.raises(RunnerError, match="expected an odd size in local_response_norm"):
        evaluate(lambda x: mb.local_response_norm(x=x, size=2), {"x": x})
