"""The evaluator's elementwise operations against numpy and scipy in float64, over random shapes and values."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coreml_programs import FLOAT_TYPES, Array, assert_close, builder, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from converters.coreml_evaluator import operations
from edge_sr.errors import RunnerError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

few = settings(max_examples=6, deadline=None, derandomize=True)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(FLOAT_TYPES)


def draw(seed: int, shape: tuple[int, ...], dtype: Any, low: float = -4, high: float = 4) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def wide(x: Array) -> Array:
    return x.astype(np.float64)


# operation -> reference in float64, lowest and highest input
UNARY: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "abs": (np.abs, -4, 4),
    "acos": (np.arccos, -0.9, 0.9),
    "asin": (np.arcsin, -0.9, 0.9),
    "atan": (np.arctan, -4, 4),
    "atanh": (np.arctanh, -0.9, 0.9),
    "ceil": (np.ceil, -4, 4),
    "cos": (np.cos, -4, 4),
    "cosh": (np.cosh, -4, 4),
    "erf": (special.erf, -4, 4),
    "exp": (np.exp, -4, 4),
    "exp2": (np.exp2, -4, 4),
    "floor": (np.floor, -4, 4),
    "identity": (lambda x: x, -4, 4),
    "relu": (lambda x: np.where(x > 0, x, 0), -4, 4),
    "relu6": (lambda x: np.clip(x, 0, 6), -9, 9),
    "round": (np.rint, -4, 4),
    "sigmoid": (special.expit, -20, 20),
    "sign": (np.sign, -4, 4),
    "silu": (lambda x: x * special.expit(x), -20, 20),
    "sin": (np.sin, -4, 4),
    "sinh": (np.sinh, -4, 4),
    "softplus": (lambda x: np.logaddexp(x, 0), -30, 30),
    "softsign": (lambda x: x / (1 + np.abs(x)), -4, 4),
    "sqrt": (np.sqrt, 0, 4),
    "square": (np.square, -4, 4),
    "tan": (np.tan, -1, 1),
    "tanh": (np.tanh, -4, 4),
}
WITH_EPSILON: dict[str, Callable[[Array, float], Array]] = {
    "inverse": lambda x, epsilon: 1 / (x + epsilon),
    "log": lambda x, epsilon: np.log(x + epsilon),
    "rsqrt": lambda x, epsilon: 1 / np.sqrt(x + epsilon),
}
BINARY: dict[str, tuple[Callable[[Array, Array], Array], float, float]] = {
    "add": (np.add, -4, 4),
    "floor_div": (np.floor_divide, 0.5, 9),
    "maximum": (np.maximum, -4, 4),
    "minimum": (np.minimum, -4, 4),
    "mod": (np.mod, 0.5, 9),
    "mul": (np.multiply, -4, 4),
    "pow": (np.power, 0.1, 3),
    "real_div": (np.divide, 0.5, 4),
    "sub": (np.subtract, -4, 4),
}
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    name: getattr(np, name) for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
}
LOGICAL: dict[str, Callable[[Array, Array], Array]] = {
    name: getattr(np, name) for name in ("logical_and", "logical_or", "logical_xor")
}
# operation -> attributes, reference of x and them
ACTIVATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    "clamped_relu": (("alpha", "beta"), lambda x, a, b: np.minimum(np.where(x >= 0, x, a * x), b)),
    "elu": (("alpha",), lambda x, a: np.where(x >= 0, x, a * np.expm1(x))),
    "leaky_relu": (("alpha",), lambda x, a: np.where(x >= 0, x, a * x)),
    "linear_activation": (("alpha", "beta"), lambda x, a, b: a * x + b),
    "scaled_tanh": (("alpha", "beta"), lambda x, a, b: a * np.tanh(b * x)),
    "sigmoid_hard": (("alpha", "beta"), lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "threshold": (("alpha",), np.maximum),
    "thresholded_relu": (("alpha",), lambda x, a: np.where(x >= a, x, 0)),
}
GELU: dict[str, Callable[[Array], Array]] = {
    "EXACT": lambda x: x * special.ndtr(x),
    "TANH_APPROXIMATION": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "SIGMOID_APPROXIMATION": lambda x: x * special.expit(1.702 * x),
}


@pytest.mark.parametrize("kind", UNARY)
@few
@given(shape=shapes, seed=seeds, dtype=dtypes)
def test_functions_of_one_value(kind: str, shape: tuple[int, ...], seed: int, dtype: Any) -> None:
    reference, low, high = UNARY[kind]
    x = draw(seed, shape, dtype, low, high)
    (got,) = evaluate(lambda x: getattr(builder(), kind)(x=x), {"x": x})
    assert got.dtype == dtype
    assert_close(got, reference(wide(x)), dtype)


@pytest.mark.parametrize("kind", WITH_EPSILON)
@few
@given(shape=shapes, seed=seeds, dtype=dtypes, epsilon=st.sampled_from([2.0**-10, 0.25]))
def test_functions_kept_off_their_pole(
    kind: str, shape: tuple[int, ...], seed: int, dtype: Any, epsilon: float
) -> None:
    x = draw(seed, shape, dtype, 0.01, 4)
    (got,) = evaluate(lambda x: getattr(builder(), kind)(x=x, epsilon=dtype(epsilon)), {"x": x})
    assert_close(got, WITH_EPSILON[kind](wide(x), epsilon), dtype)


@pytest.mark.parametrize("kind", BINARY)
@few
@given(shape=shapes, seed=seeds, dtype=dtypes, broadcast=st.booleans())
def test_functions_of_two_values_and_broadcasting(
    kind: str, shape: tuple[int, ...], seed: int, dtype: Any, broadcast: bool
) -> None:
    reference, low, high = BINARY[kind]
    x, y = draw(seed, shape, dtype, low, high), draw(seed + 1, shape[-1:] if broadcast else shape, dtype, low, high)
    (got,) = evaluate(lambda x, y: getattr(builder(), kind)(x=x, y=y), {"x": x, "y": y})
    # a remainder in float32 is exact, but one divided by almost the divisor may be on either side
    expected = reference(wide(x), wide(y))
    assert_close(got, expected, dtype, relative=2e-5)


@pytest.mark.parametrize("kind", ["add", "floor_div", "maximum", "minimum", "mod", "mul", "sub"])
@few
@given(shape=shapes, seed=seeds)
def test_whole_numbers_are_exact(kind: str, shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-50, 50, shape).astype(np.int32)
    y = (rng.integers(1, 9, shape) * rng.choice([-1, 1], shape)).astype(np.int32)
    (got,) = evaluate(lambda x, y: getattr(builder(), kind)(x=x, y=y), {"x": x, "y": y})
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, BINARY[kind][0](x, y))


@pytest.mark.parametrize("kind", COMPARISONS)
@few
@given(shape=shapes, seed=seeds, dtype=st.sampled_from([*FLOAT_TYPES, np.int32]))
def test_comparisons_choose(kind: str, shape: tuple[int, ...], seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(-2, 3, shape).astype(dtype) for _ in range(2))  # often equal
    mb = builder()
    (got,) = evaluate(lambda x, y: mb.select(cond=getattr(mb, kind)(x=x, y=y), a=x, b=y), {"x": x, "y": y})
    np.testing.assert_array_equal(got, np.where(COMPARISONS[kind](x, y), x, y))


@pytest.mark.parametrize("kind", LOGICAL)
@few
@given(shape=shapes, seed=seeds)
def test_logic(kind: str, shape: tuple[int, ...], seed: int) -> None:
    x, y = draw(seed, shape, np.float32), draw(seed + 1, shape, np.float32)
    mb, zero = builder(), np.float32(0)

    def build(x: Any, y: Any) -> Any:
        made = getattr(mb, kind)(x=mb.greater(x=x, y=zero), y=mb.greater(x=y, y=zero))
        return mb.cast(x=mb.logical_not(x=made), dtype="int32")

    (got,) = evaluate(build, {"x": x, "y": y})
    np.testing.assert_array_equal(got, np.logical_not(LOGICAL[kind](x > 0, y > 0)))


@pytest.mark.parametrize("kind", ACTIVATIONS)
@few
@given(shape=shapes, seed=seeds, dtype=dtypes, alpha=st.sampled_from([0.125, 0.5]), beta=st.sampled_from([0.25, 2.0]))
def test_activations(kind: str, shape: tuple[int, ...], seed: int, dtype: Any, alpha: float, beta: float) -> None:
    names, reference = ACTIVATIONS[kind]
    attributes = dict(zip(names, (dtype(alpha), dtype(beta)), strict=False))
    x = draw(seed, shape, dtype)
    (got,) = evaluate(lambda x: getattr(builder(), kind)(x=x, **attributes), {"x": x})
    assert_close(got, reference(wide(x), *map(float, attributes.values())), dtype)


@pytest.mark.parametrize("mode", GELU)
@few
@given(shape=shapes, seed=seeds, dtype=dtypes)
def test_gelu_in_its_three_modes(mode: str, shape: tuple[int, ...], seed: int, dtype: Any) -> None:
    x = draw(seed, shape, dtype)
    (got,) = evaluate(lambda x: builder().gelu(x=x, mode=mode), {"x": x})
    assert_close(got, GELU[mode](wide(x)), dtype, relative=2e-5, absolute=2e-6)


@few
@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), seed=seeds)
def test_parametric_activations_take_a_value_per_channel(shape: tuple[int, ...], seed: int) -> None:
    x, alpha = draw(seed, shape, np.float32), draw(seed + 1, shape[1:2], np.float32, 0.1, 1)
    beta, mb = draw(seed + 2, shape[1:2], np.float32, 0.1, 1), builder()
    slopes, steps = wide(alpha)[:, None, None], wide(beta)[:, None, None]
    got = evaluate(
        lambda x: (mb.prelu(x=x, alpha=alpha), mb.softplus_parametric(x=x, alpha=alpha, beta=beta)), {"x": x}
    )
    assert_close(got[0], np.where(x >= 0, wide(x), slopes * wide(x)), np.float32)
    assert_close(got[1], slopes * np.logaddexp(steps * wide(x), 0), np.float32)


@few
@given(shape=shapes, seed=seeds, dtype=dtypes, data=st.data())
def test_softmax_and_clip(shape: tuple[int, ...], seed: int, dtype: Any, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, mb = draw(seed, shape, dtype, -9, 9), builder()
    got = evaluate(lambda x: (mb.softmax(x=x, axis=axis), mb.clip(x=x, alpha=dtype(-1.5), beta=dtype(2))), {"x": x})
    assert_close(got[0], special.softmax(wide(x), axis=axis), dtype)
    np.testing.assert_array_equal(got[1], np.clip(x, dtype(-1.5), dtype(2)))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.float32, "fp16"),
        (np.float16, "fp32"),
        (np.float32, "int32"),
        (np.float16, "int32"),
        (np.float16, "int16"),
        (np.float16, "int8"),
        (np.float32, "bool"),
        (np.int32, "fp16"),
        (np.int32, "bool"),
    ],
)
@few
@given(shape=shapes, seed=seeds)
def test_casts_are_numpys(source: Any, target: str, shape: tuple[int, ...], seed: int) -> None:
    x = (np.random.default_rng(seed).integers(-4, 5, shape) * 0.7).astype(source)
    final = {"fp16": np.float16, "fp32": np.float32, "bool": np.bool_}.get(target) or np.dtype(target).type
    outside = final if final in (np.float16, np.float32, np.int32) else np.int32  # what a package may give
    mb = builder()

    def build(x: Any) -> Any:
        made = mb.cast(x=x, dtype=target)
        return made if outside is final else mb.cast(x=made, dtype="int32")

    (got,) = evaluate(build, {"x": x})
    np.testing.assert_array_equal(got, x.astype(final).astype(outside))


def test_what_does_not_fit_a_whole_number_is_an_error_not_a_guess() -> None:
    mb = builder()
    x = np.array([1.0, 300.0], np.float32)
    with pytest.raises(RunnerError, match=r"expected values from -128 to 127 in cast '\w+' \(operation \d"):
        evaluate(lambda x: mb.cast(x=mb.cast(x=x, dtype="int8"), dtype="int32"), {"x": x})


def test_whole_numbers_are_divided_only_where_nothing_is_left() -> None:
    x, y = np.array([6, -9], np.int32), np.array([3, 3], np.int32)
    (got,) = evaluate(lambda x, y: builder().real_div(x=x, y=y), {"x": x, "y": y})
    assert got.tolist() == [2, -3]
    with pytest.raises(RunnerError, match="divide evenly in real_div"):
        evaluate(lambda x, y: builder().real_div(x=x, y=y), {"x": x + 1, "y": y})


def test_float16_sums_are_rounded_to_even_once() -> None:
    # 2049 is no float16: between 2048 and 2050 a tie goes to the even one; 2049 + 2**-9 would tell double rounding
    x = np.array([2048.0, 2050.0, 2048.0], np.float16)
    y = np.array([1.0, 1.0, 1.001], np.float16)
    (got,) = evaluate(lambda x, y: builder().add(x=x, y=y), {"x": x, "y": y})
    np.testing.assert_array_equal(got, np.array([2048.0, 2052.0, 2050.0], np.float16))
    (unrounded,) = evaluate(
        lambda x, y: builder().cast(x=builder().add(x=x, y=y), dtype="fp32"), {"x": x, "y": y}, precision="fp32"
    )
    np.testing.assert_array_equal(unrounded, x.astype(np.float32) + y.astype(np.float32))


def test_every_operation_known_is_one_of_mil() -> None:
    known = set(dir(builder()))
    assert sorted(set(operations.OPERATIONS) - known) == []
