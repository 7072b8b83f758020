"""Every MIL operation that the evaluator knows."""

from __future__ import annotations

from converters.coreml_evaluator import (
    activations,
    convolution,
    elementwise,
    indexing,
    linear_algebra,
    normalization,
    pooling,
    quantization_ops,
    reductions,
    resizing,
    shapes,
)
from converters.coreml_evaluator.node import Builder

OPERATIONS: dict[str, Builder] = {
    **activations.BUILDERS,
    **convolution.BUILDERS,
    **elementwise.BUILDERS,
    **indexing.BUILDERS,
    **linear_algebra.BUILDERS,
    **normalization.BUILDERS,
    **pooling.BUILDERS,
    **quantization_ops.BUILDERS,
    **reductions.BUILDERS,
    **resizing.BUILDERS,
    **shapes.BUILDERS,
}
