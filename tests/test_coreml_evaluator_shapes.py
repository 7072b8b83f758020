"""The evaluator's operations that move, choose, reduce and resample values, against numpy."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coreml_programs import FLOAT_TYPES, Array, assert_close, builder, evaluate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special

from edge_sr.errors import RunnerError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

few = settings(max_examples=15, deadline=None, derandomize=True)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(FLOAT_TYPES)
Shape = tuple[int, ...]


def draw(seed: int, shape: Shape, dtype: Any = np.float32, low: float = -4, high: float = 4) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def wide(x: Array) -> Array:
    return x.astype(np.float64)


def same(build: Callable[..., Any], x: Array, expected: Array, **options: Any) -> None:
    """``build`` moves the values of x to where they are expected, and changes none."""
    (got,) = evaluate(build, {"x": x}, **options)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, expected)


# ------------------------------------------------------------------------------------------------------------- shapes
@few
@given(shape=shapes, seed=seeds, dtype=st.sampled_from([*FLOAT_TYPES, np.int32]), data=st.data())
def test_values_keep_their_order_in_another_shape(shape: Shape, seed: int, dtype: Any, data: st.DataObject) -> None:
    x, mb, rank = draw(seed, shape, dtype), builder(), len(shape)
    same(lambda x: mb.reshape(x=x, shape=[-1, shape[-1]]), x, x.reshape(-1, shape[-1]))
    same(lambda x: mb.reshape(x=x, shape=[0] * (rank - 1) + [-1]), x, x)
    axes = data.draw(st.sets(st.integers(0, rank), min_size=1, max_size=2).map(sorted))
    expanded = np.expand_dims(x, tuple(axes))
    same(lambda x: mb.expand_dims(x=x, axes=axes), x, expanded)
    same(lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=axes), axes=axes), x, x)
    axis = data.draw(st.integers(0, rank - 1))
    same(lambda x: mb.flatten2d(x=x, axis=axis), x, x.reshape(int(np.prod(shape[:axis])), -1))


@few
@given(shape=shapes, seed=seeds, dtype=dtypes, data=st.data())
def test_axes_turned_mirrored_and_repeated(shape: Shape, seed: int, dtype: Any, data: st.DataObject) -> None:
    x, mb, rank = draw(seed, shape, dtype), builder(), len(shape)
    order = data.draw(st.permutations(range(rank)))
    same(lambda x: mb.transpose(x=x, perm=order), x, x.transpose(order))
    axes = data.draw(st.sets(st.integers(0, rank - 1), min_size=1).map(sorted))
    same(lambda x: mb.reverse(x=x, axes=axes), x, np.flip(x, axes))
    reps = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    same(lambda x: mb.tile(x=x, reps=reps), x, np.tile(x, reps))


@few
@given(shape=shapes, seed=seeds, dtype=dtypes, data=st.data())
def test_parts_come_together_and_apart(shape: Shape, seed: int, dtype: Any, data: st.DataObject) -> None:
    x, y, mb = draw(seed, shape, dtype), draw(seed + 1, shape, dtype), builder()
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    first = data.draw(st.integers(1, shape[axis]))

    def build(x: Any, y: Any) -> Any:
        joined = mb.concat(values=(x, y), axis=axis)
        return (
            joined,
            mb.concat(values=(x, y), axis=axis, interleave=True),
            mb.stack(values=(x, y), axis=axis),
            *mb.split(x=joined, num_splits=2, axis=axis),
            *mb.split(x=joined, split_sizes=[first, 2 * shape[axis] - first], axis=axis),
        )

    got = evaluate(build, {"x": x, "y": y})
    joined = np.concatenate([x, y], axis)
    at = axis % len(shape)
    alternating = np.stack([x, y], at + 1).reshape(joined.shape)
    expected = [joined, alternating, np.stack([x, y], axis), x, y, *np.split(joined, [first], axis)]
    for one, reference in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, reference)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@few
@given(shape=shapes, seed=seeds, dtype=dtypes, data=st.data())
def test_padding(mode: str, shape: Shape, seed: int, dtype: Any, data: st.DataObject) -> None:
    x = draw(seed, shape, dtype)
    sides = [
        data.draw(st.integers(0, min(2, size - 1) if mode == "reflect" else 2)) for size in shape for _ in range(2)
    ]
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    how: dict[str, Any] = {"constant_values": dtype(1.5)} if mode == "constant" else {}
    expected = np.pad(x, pairs, {"replicate": "edge"}.get(mode, mode), **how)  # type: ignore[call-overload]
    same(lambda x: builder().pad(x=x, pad=sides, mode=mode, constant_val=dtype(1.5)), x, expected)


@few
@given(seed=seeds, n=st.integers(1, 2), c=st.integers(1, 2), h=st.integers(1, 3), w=st.integers(1, 3))
def test_space_and_depth(seed: int, n: int, c: int, h: int, w: int) -> None:
    mb, block = builder(), 2
    depth, space = draw(seed, (n, 4 * c, h, w)), draw(seed, (n, c, 2 * h, 2 * w))
    shuffled, to_space = np.empty((n, c, 2 * h, 2 * w), np.float32), np.empty((n, c, 2 * h, 2 * w), np.float32)
    to_depth = np.empty((n, 4 * c, h, w), np.float32)
    for channel in range(c):
        for row in range(2):
            for column in range(2):
                inside = np.s_[:, channel, row::2, column::2]
                shuffled[inside] = depth[:, 4 * channel + 2 * row + column]
                to_space[inside] = depth[:, (2 * row + column) * c + channel]
                to_depth[:, (2 * row + column) * c + channel] = space[inside]
    same(lambda x: mb.pixel_shuffle(x=x, upscale_factor=block), depth, shuffled)
    same(lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(block)), shuffled, depth)
    same(lambda x: mb.depth_to_space(x=x, block_size=block), depth, to_space)
    same(lambda x: mb.space_to_depth(x=x, block_size=block), space, to_depth)


def test_shapes_and_fillings_are_values() -> None:
    x, mb = draw(0, (2, 3, 4)), builder()

    def build(x: Any) -> Any:
        return (
            mb.shape(x=x),
            mb.fill(shape=mb.shape(x=x), value=np.float32(1.5)),
            mb.fill_like(ref_tensor=x, value=np.int32(7)),
            mb.reshape(x=x, shape=mb.concat(values=(mb.gather(x=mb.shape(x=x), indices=[0]), [-1]), axis=0)),
            mb.add(x=mb.range_1d(start=np.int32(1), end=np.int32(9), step=np.int32(3)), y=np.int32(0)),
            mb.one_hot(indices=mb.non_zero(x=mb.cast(x=mb.shape(x=x), dtype="fp32")), one_hot_vector_size=3),
        )

    got = evaluate(build, {"x": x})
    expected = [
        [2, 3, 4],
        np.full((2, 3, 4), 1.5),
        np.full((2, 3, 4), 7),
        x.reshape(2, 12),
        [1, 4, 7],
        np.eye(3)[:, None],
    ]
    for one, reference in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, reference)


@few
@given(
    seed=seeds,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    lower=st.integers(-1, 3),
    upper=st.integers(-1, 3),
)
def test_band_part(seed: int, shape: Shape, lower: int, upper: int) -> None:
    x = draw(seed, shape)
    rows, columns = np.indices(shape)
    inside = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    same(lambda x: builder().band_part(x=x, lower=lower, upper=upper), x, np.where(inside, x, 0))


def test_the_shapes_of_others() -> None:
    x, y, z, mb = draw(0, (2, 6)), draw(1, (3, 2)), draw(2, (2,)), builder()

    def build(x: Any, y: Any, z: Any) -> Any:
        whole = {"begins": [0, 0], "ends": [2, 1], "end_masks": [True, True]}
        return mb.reshape_like(x=x, ref_tensors=(y, z), **whole), mb.identity(x=y), mb.identity(x=z)

    got = evaluate(build, {"x": x, "y": y, "z": z}, opset="iOS16")
    np.testing.assert_array_equal(got[0], x.reshape(3, 2, 2))


# ----------------------------------------------------------------------------------------------------------- indexing
@few
@given(shape=shapes, seed=seeds, dtype=dtypes, data=st.data())
def test_slices_are_numpys(shape: Shape, seed: int, dtype: Any, data: st.DataObject) -> None:
    x, mb, slices = draw(seed, shape, dtype), builder(), []
    for size in shape:
        first = data.draw(st.integers(-size, size - 1))
        step = data.draw(st.sampled_from([-2, -1, 1, 2]))
        last = data.draw(st.integers(-size, size))
        slices.append((first, last, step, data.draw(st.booleans()), data.draw(st.booleans())))
    chosen = tuple(slice(None if a else b, None if z else e, s) for b, e, s, a, z in slices)
    expected = x[chosen]
    assume(expected.size)
    begin, end, stride, begin_mask, end_mask = map(list, zip(*slices, strict=True))
    same(
        lambda x: mb.slice_by_index(x=x, begin=begin, end=end, stride=stride, begin_mask=begin_mask, end_mask=end_mask),
        x,
        expected,
    )


def test_squeezed_slices_slices_by_size_and_updates() -> None:
    x, mb = draw(0, (3, 4, 5)), builder()
    squeezed = [True, False, False]
    same(lambda x: mb.slice_by_index(x=x, begin=[-1, 1, 0], end=[0, 3, 5], squeeze_mask=squeezed), x, x[-1, 1:3, 0:5])
    same(lambda x: mb.slice_by_size(x=x, begin=[1, -3, 0], size=[2, 2, -1]), x, x[1:3, 1:3, :])
    same(lambda x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]), x, x[:, 1:, 2:-1])
    updated = x.copy()
    updated[0:3:2, 1:3, 4] = -1
    update = np.full((2, 2), -1, np.float32)

    def build(x: Any) -> Any:
        return mb.slice_update(
            x=x, update=update, begin=[0, 1, 4], end=[3, 3, 0], stride=[2, 1, 1], squeeze_mask=[False, False, True]
        )

    same(build, x, updated, opset="iOS18")


@few
@given(shape=st.tuples(*[st.integers(1, 4)] * 3), seed=seeds, dtype=dtypes, axis=st.integers(-3, 2))
def test_gathering(shape: Shape, seed: int, dtype: Any, axis: int) -> None:
    x, mb, rng = draw(seed, shape, dtype), builder(), np.random.default_rng(seed)
    places = rng.integers(-shape[axis], shape[axis], (2, 3)).astype(np.int32)
    same(lambda x: mb.gather(x=x, indices=places, axis=axis), x, np.take(x, places, axis), opset="iOS15")
    positive = places % shape[axis]
    same(lambda x: mb.gather(x=x, indices=positive, axis=axis), x, np.take(x, positive, axis))
    along = rng.integers(0, shape[axis], shape).astype(np.int32)
    same(lambda x: mb.gather_along_axis(x=x, indices=along, axis=axis), x, np.take_along_axis(x, along, axis))
    pairs = np.stack([rng.integers(0, size, (4,)) for size in shape[:2]], -1).astype(np.int32)
    same(lambda x: mb.gather_nd(x=x, indices=pairs), x, x[pairs[:, 0], pairs[:, 1]])
    per_batch = rng.integers(0, shape[1], (shape[0], 2)).astype(np.int32)
    expected = np.stack([row[places] for row, places in zip(x, per_batch, strict=True)])
    same(lambda x: mb.gather(x=x, indices=per_batch, axis=1, batch_dims=1), x, expected)
    same(lambda x: mb.gather_nd(x=x, indices=per_batch[..., None], batch_dims=1), x, expected)


@pytest.mark.parametrize(
    ("mode", "reference"),
    [("add", np.add), ("mul", np.multiply), ("max", np.maximum), ("min", np.minimum), ("update", lambda old, new: new)],
)
def test_scattering(mode: str, reference: Callable[[float, float], float]) -> None:
    x, updates = draw(0, (3, 4)), draw(1, (2, 4))
    places = np.array([[0, 1, 2, 0], [2, 0, 1, 1]], np.int32)
    expected = x.copy()
    for row, column in np.ndindex(2, 4):
        expected[places[row, column], column] = reference(expected[places[row, column], column], updates[row, column])
    (got,) = evaluate(
        lambda x: builder().scatter_along_axis(data=x, indices=places, updates=updates, axis=0, mode=mode), {"x": x}
    )
    assert_close(got, wide(expected), np.float32)


@pytest.mark.parametrize(("opset", "place"), [("iOS17", -1), ("iOS17", 9), ("iOS15", 9), ("iOS15", -4)])
def test_an_index_out_of_bounds_is_an_error_with_its_place(opset: str, place: int) -> None:
    x, y, mb = draw(0, (3, 2)), np.array([0, place], np.int32), builder()
    with pytest.raises(
        RunnerError, match=r"expected gather '\w+' \(operation \d.*to run, got indices from .* axis of 3"
    ):
        evaluate(lambda x, y: mb.gather(x=x, indices=y, axis=0), {"x": x, "y": y}, opset=opset)


# --------------------------------------------------------------------------------------------------------- reductions
REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_l1_norm": lambda x, **how: np.abs(x).sum(**how),
    "reduce_l2_norm": lambda x, **how: np.sqrt((x**2).sum(**how)),
    "reduce_log_sum": lambda x, **how: np.log(x.sum(**how)),
    "reduce_log_sum_exp": lambda x, **how: special.logsumexp(x, **how),
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **how: (x**2).sum(**how),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
@few
@given(shape=shapes, seed=seeds, dtype=dtypes, keep=st.booleans(), data=st.data())
def test_reductions(kind: str, shape: Shape, seed: int, dtype: Any, keep: bool, data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted))
    x = draw(seed, shape, dtype, 0.5, 1.5)
    (got,) = evaluate(lambda x: getattr(builder(), kind)(x=x, axes=axes, keep_dims=keep), {"x": x})
    expected = REDUCTIONS[kind](wide(x), axis=tuple(axes), keepdims=keep)
    assert_close(got.reshape(expected.shape), expected, dtype, relative=1e-4)  # up to 256 factors, each rounded


@few
@given(shape=shapes, seed=seeds, keep=st.booleans(), data=st.data())
def test_largest_smallest_sorted_and_summed_up(shape: Shape, seed: int, keep: bool, data: st.DataObject) -> None:
    axis, mb = data.draw(st.integers(-len(shape), len(shape) - 1)), builder()
    reverse, exclusive, ascending = (data.draw(st.booleans()) for _ in range(3))
    x = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)  # no ties
    k = data.draw(st.integers(1, shape[axis]))

    def build(x: Any) -> Any:
        return (
            mb.reduce_argmax(x=x, axis=axis, keep_dims=keep),
            mb.reduce_argmin(x=x, axis=axis, keep_dims=keep),
            mb.argsort(x=x, axis=axis, ascending=ascending),
            mb.cumsum(x=x, axis=axis % len(shape), reverse=reverse, exclusive=exclusive),
            *mb.topk(x=x, k=k, axis=axis, ascending=ascending),
        )

    got = evaluate(build, {"x": x})
    order = np.argsort(x if ascending else -x, axis=axis)
    turned = np.flip(x, axis) if reverse else x
    sums = np.cumsum(turned, axis) - (turned if exclusive else 0)
    top = order.take(range(k), axis=axis)
    expected = [
        np.argmax(x, axis, keepdims=keep),
        np.argmin(x, axis, keepdims=keep),
        order,
        np.flip(sums, axis) if reverse else sums,
        np.take_along_axis(x, top, axis),
        top,
    ]
    for one, reference in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.reshape(reference.shape), reference)


# ----------------------------------------------------------------------------------------------------------- resizing
def described_points(mode: str, size: int, target: int) -> list[float]:
    """Where MIL's description of resize_bilinear samples an axis; written down as it is there."""
    points = []
    for i in range(target):
        if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and target > 1):
            point = i * (size - 1) / (target - 1) if target > 1 else 0.0
        elif mode == "ALIGN_CORNERS":
            point = (size - 1) / 2
        elif mode == "DEFAULT":
            point = i * (size - size / target) / (target - 1) if target > 1 else 0.0
        elif mode == "OFFSET_CORNERS":
            delta = max(1, size - 1) / target
            point = 0.5 * delta + i * delta
        else:
            point = i * size / target + 0.5 * size / target - 0.5
        points.append(min(size - 1, max(0, point)))
    return points


def sampled(x: Array, axis: int, points: list[float]) -> Array:
    lower = np.floor(points).astype(int)
    upper = np.minimum(lower + 1, x.shape[axis] - 1)
    weight = (np.array(points) - lower).reshape([-1 if at == axis % x.ndim else 1 for at in range(x.ndim)])
    return x.take(lower, axis) * (1 - weight) + x.take(upper, axis) * weight


MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


@pytest.mark.parametrize("mode", MODES)
@few
@given(seed=seeds, dtype=dtypes, h=st.integers(1, 5), w=st.integers(1, 5), th=st.integers(1, 9), tw=st.integers(1, 9))
def test_linear_resizing_samples_where_it_is_described_to(
    mode: str, seed: int, dtype: Any, h: int, w: int, th: int, tw: int
) -> None:
    x, mb = draw(seed, (2, h, w), dtype), builder()

    def build(x: Any) -> Any:
        by_size = mb.resize_bilinear(x=x, target_size_height=th, target_size_width=tw, sampling_mode=mode)
        return by_size, mb.resize(x=x, shape=[th, tw], resized_dims=np.uint32(2), sampling_mode=mode)

    expected = sampled(wide(x), 1, described_points(mode, h, th))
    expected = sampled(expected, 2, described_points(mode, w, tw))
    for got in evaluate(build, {"x": x}):
        assert_close(got, expected, dtype)


def test_the_descriptions_own_examples_of_sampling_points() -> None:
    x = np.array([[[0.0, 1.0]]], np.float32)
    examples = {
        ("UNALIGN_CORNERS", 5): [0.0, 0.1, 0.5, 0.9, 1.0],
        ("ALIGN_CORNERS", 5): [0.0, 0.25, 0.5, 0.75, 1.0],
        ("DEFAULT", 5): [0.0, 0.4, 0.8, 1.0, 1.0],
        ("OFFSET_CORNERS", 5): [0.1, 0.3, 0.5, 0.7, 0.9],
        ("DEFAULT", 6): [0.0, 0.33, 0.67, 1.0, 1.0, 1.0],
    }
    for (mode, target), points in examples.items():
        (got,) = evaluate(
            lambda x, m=mode, t=target: builder().resize_bilinear(
                x=x, target_size_height=1, target_size_width=t, sampling_mode=m
            ),
            {"x": x},
        )
        np.testing.assert_allclose(got.ravel(), points, atol=0.005)


@few
@given(seed=seeds, dtype=dtypes, h=st.integers(1, 4), w=st.integers(1, 4), fh=st.integers(1, 3), fw=st.integers(1, 3))
def test_enlarging_by_whole_factors(seed: int, dtype: Any, h: int, w: int, fh: int, fw: int) -> None:
    x, mb = draw(seed, (1, 2, h, w), dtype), builder()
    by = {"scale_factor_height": fh, "scale_factor_width": fw}

    def build(x: Any) -> Any:
        return (
            mb.upsample_nearest_neighbor(x=x, **by),
            mb.resize_nearest_neighbor(x=x, target_size_height=h * fh, target_size_width=w * fw),
            mb.upsample_bilinear(x=x, align_corners=True, **by),
            mb.upsample_bilinear(x=x, align_corners=False, **by),
        )

    got = evaluate(build, {"x": x})
    repeated = x.repeat(fh, 2).repeat(fw, 3)
    for one in got[:2]:
        np.testing.assert_array_equal(one, repeated)
    for one, mode in zip(got[2:], ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"), strict=True):
        rows = sampled(wide(x), 2, described_points(mode, h, h * fh))
        assert_close(one, sampled(rows, 3, described_points(mode, w, w * fw)), dtype)
