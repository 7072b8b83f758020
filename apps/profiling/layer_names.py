"""Names of layers: of a TFLite file's operators for people, and XNNPACK's for the same operators."""

from __future__ import annotations

from apps.lint.graph import Op

# How XNNPACK calls what it runs (up to the first bracket) -> the TFLite operators that become it. A 1x1 convolution
# becomes a fully connected layer, a concatenation copies (ai-edge-litert 2.3.0).
_BECOMES: dict[str, tuple[str, ...]] = {
    "Convolution": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "Deconvolution": ("TRANSPOSE_CONV",),
    "Fully Connected": ("CONV_2D", "FULLY_CONNECTED"),
    "Batch Matrix Multiply": ("BATCH_MATMUL",),
    "Static Reshape": ("RESHAPE",),
    "Slice": ("SLICE", "STRIDED_SLICE"),
    "Transpose": ("TRANSPOSE",),
    "Copy": ("CONCATENATION", "RESHAPE"),
    "Concatenate": ("CONCATENATION",),
    "Convert": ("QUANTIZE", "DEQUANTIZE"),
    "Add": ("ADD",),
    "Subtract": ("SUB",),
    "Multiply": ("MUL",),
    "Divide": ("DIV",),
    "Sigmoid": ("LOGISTIC",),
    "Softmax": ("SOFTMAX",),
    "Depth To Space": ("DEPTH_TO_SPACE",),
    "Clamp": ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"),
    "GELU": ("GELU",),
    "Reciprocal Square Root": ("RSQRT",),
    "Square": ("SQUARE",),
    "Mean": ("MEAN",),
}


def same_operator(kernel: str, kind: str) -> bool:
    """Whether the runtime's ``Fully Connected (NC, F32) GEMM`` can be the file's ``CONV_2D``.

    Outside of delegates the runtime uses the file's own names.
    """
    name = kernel.partition("(")[0].strip()
    return kind == name or kind in _BECOMES.get(name, ())


def op_label(op: Op) -> str:
    """An operator's number and where it is in the network: ``#4 0.refine 3x3 8->8``.

    litert-torch names tensors by the modules they passed through; a weight's name is the layer's own.
    """
    weight = op.inputs[1] if op.macs and len(op.inputs) > 1 else None
    named = weight.name if weight is not None and weight.constant else op.output.name
    parts = [f"#{op.index}", _module_path(named)]
    if weight is not None and weight.constant and op.taps:
        # Weights are (out, height, width, in), depthwise ones (1, height, width, channels).
        out, height, width, inner = weight.shape
        depthwise = op.kind == "DEPTHWISE_CONV_2D"
        parts.append(f"{height}x{width} {f'{inner} depthwise' if depthwise else f'{inner}->{out}'}")
    return " ".join(part for part in parts if part)


def _module_path(tensor: str) -> str:
    """``...mobile.DeployedMobile_network/...mobile.Block_0/...conv.Conv2d_refine;1#32`` -> ``0.refine``."""
    last = tensor.rpartition("#")[0].split(";;")[-1].partition(";")[0]
    # What the exporter wraps around the network comes first.
    names = [component.rpartition(".")[2].partition("_")[2] for component in last.split("/")[1:]]
    return ".".join(name for name in names if name and name != "network")
