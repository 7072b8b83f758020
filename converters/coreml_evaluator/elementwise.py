"""Arithmetic, comparison and logic, one element at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from converters.coreml_evaluator.node import Builder, Kernel, Node
from converters.coreml_evaluator.value_types import FLOATS, INTEGER_RANGES, SPELLINGS, STORAGE
from edge_sr.errors import RunnerError

Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def _unary(function: Unary, *, exact: bool = False) -> Builder:
    def build(node: Node) -> Kernel:
        node.type_of("x")
        return Kernel(parameters=("x",), compute=function, exact=exact)

    return build


def _float_unary(function: Unary, *, exact: bool = False) -> Builder:
    def build(node: Node) -> Kernel:
        node.require_floats("x")
        return Kernel(parameters=("x",), compute=function, exact=exact)

    return build


def _with_epsilon(function: Callable[[Tensor, float], Tensor], default: float) -> Builder:
    """A function of x that Core ML keeps off its pole by a constant."""

    def build(node: Node) -> Kernel:
        node.require_floats("x")
        epsilon = node.number("epsilon", default)
        return Kernel(parameters=("x",), compute=lambda x: function(x, epsilon))

    return build


def _binary(function: Binary, *, exact: bool = False) -> Builder:
    def build(node: Node) -> Kernel:
        node.require_one_type("x", "y")
        return Kernel(parameters=("x", "y"), compute=function, exact=exact)

    return build


def _comparison(function: Binary) -> Builder:
    def build(node: Node) -> Kernel:
        node.require_one_type("x", "y")
        return Kernel(parameters=("x", "y"), compute=function, dtypes=("bool",))

    return build


def _floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


def _real_div(node: Node) -> Kernel:
    node.require_one_type("x", "y")
    if node.type_of("x").dtype in FLOATS:
        return Kernel(parameters=("x", "y"), compute=torch.div)
    where = node.where

    def whole(x: Tensor, y: Tensor) -> Tensor:
        # of whole numbers MIL declares a whole number, and does not say what becomes of the rest
        if bool((y == 0).any()) or bool((x % y != 0).any()):
            raise RunnerError(f"expected whole numbers that divide evenly in {where}, got a remainder: cast them first")
        return torch.div(x, y, rounding_mode="floor")

    return Kernel(parameters=("x", "y"), compute=whole)


def _clip(node: Node) -> Kernel:
    low, high = node.number("alpha"), node.number("beta")
    if low > high:
        node.damaged(f"beta to be at least alpha ({low:g})", f"{high:g}")
    return Kernel(parameters=("x",), compute=lambda x: x.clamp(low, high), exact=True)


def _threshold(node: Node) -> Kernel:
    low = node.number("alpha")
    return Kernel(parameters=("x",), compute=lambda x: x.clamp(min=low), exact=True)


def _select(node: Node) -> Kernel:
    node.require_one_type("a", "b")
    if node.type_of("cond").dtype != "bool":
        node.damaged("a cond of type bool", node.type_of("cond").dtype)
    return Kernel(parameters=("cond", "a", "b"), compute=torch.where, dtypes=(node.type_of("a").dtype,), exact=True)


def _cast(node: Node) -> Kernel:
    target = SPELLINGS[node.text("dtype", allowed=tuple(SPELLINGS))]
    source = node.type_of("x").dtype
    storage, where = STORAGE[target], node.where

    def to_integer(x: Tensor) -> Tensor:
        low, high = INTEGER_RANGES[target]
        # a float's conversion cuts towards zero; what does not fit has no defined result
        if x.numel() and not (low - 1 < float(x.amin()) and float(x.amax()) < high + 1):
            raise RunnerError(f"expected values from {low} to {high} in {where}, got others: they do not fit {target}")
        return x.to(storage)

    if target in INTEGER_RANGES and source != "bool":
        return Kernel(parameters=("x",), compute=to_integer, dtypes=(target,))
    widens = target == "float32" or source in (target, "bool", "int8", "uint8")
    return Kernel(parameters=("x",), compute=lambda x: x.to(storage), dtypes=(target,), exact=widens)


def _square(x: Tensor) -> Tensor:
    return x * x


BUILDERS: dict[str, Builder] = {
    "abs": _unary(torch.abs, exact=True),
    "acos": _float_unary(torch.acos),
    "add": _binary(torch.add),
    "asin": _float_unary(torch.asin),
    "atan": _float_unary(torch.atan),
    "atanh": _float_unary(torch.atanh),
    "cast": _cast,
    "ceil": _float_unary(torch.ceil, exact=True),
    "clip": _clip,
    "cos": _float_unary(torch.cos),
    "cosh": _float_unary(torch.cosh),
    "equal": _comparison(torch.eq),
    "erf": _float_unary(torch.erf),
    "exp": _float_unary(torch.exp),
    "exp2": _float_unary(torch.exp2),
    "floor": _float_unary(torch.floor, exact=True),
    "floor_div": _binary(_floor_div),
    "greater": _comparison(torch.gt),
    "greater_equal": _comparison(torch.ge),
    "identity": _unary(lambda x: x, exact=True),
    "inverse": _with_epsilon(lambda x, epsilon: 1 / (x + epsilon), 1e-4),
    "less": _comparison(torch.lt),
    "less_equal": _comparison(torch.le),
    "log": _with_epsilon(lambda x, epsilon: torch.log(x + epsilon), 1e-45),
    "logical_and": _comparison(torch.logical_and),
    "logical_not": _unary(torch.logical_not),
    "logical_or": _comparison(torch.logical_or),
    "logical_xor": _comparison(torch.logical_xor),
    "maximum": _binary(torch.maximum, exact=True),
    "minimum": _binary(torch.minimum, exact=True),
    "mod": _binary(torch.remainder),
    "mul": _binary(torch.mul),
    "not_equal": _comparison(torch.ne),
    "pow": _binary(torch.pow),
    "real_div": _real_div,
    "round": _float_unary(torch.round, exact=True),
    "rsqrt": _with_epsilon(lambda x, epsilon: torch.rsqrt(x + epsilon), 1e-12),
    "select": _select,
    "sign": _unary(torch.sign, exact=True),
    "sin": _float_unary(torch.sin),
    "sinh": _float_unary(torch.sinh),
    "sqrt": _float_unary(torch.sqrt),
    "square": _unary(_square),
    "sub": _binary(torch.sub),
    "tan": _float_unary(torch.tan),
    "tanh": _float_unary(torch.tanh),
    "threshold": _threshold,
}
