"""One of a few names is expected: the message where it is none of them, with what was probably meant.

Nothing is ever put in the place of what was typed: the nearest name is only named.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from edge_sr.errors import ConfigError, EdgeSRError
from edge_sr.foreign_text import visible

# What people call what has another name here, in lower-case letters and digits. Of several, those are meant that the
# place knows: xnnpack is a backend of its own where there are backends, and executorch where targets are asked for.
_ALSO_CALLED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("int8", "i8", "uint8", "quantized", "ptq", "qat", "8bit"), ("w8a8",)),
    **dict.fromkeys(("mixed", "int8mixed"), ("w8a8_mixed",)),
    **dict.fromkeys(("float", "float32", "full", "f32"), ("fp32",)),
    **dict.fromkeys(("float16", "half", "f16"), ("fp16",)),
    **dict.fromkeys(("pte", "xnnpack", "et"), ("executorch", "xnnpack")),
    **dict.fromkeys(("litert", "tensorflow", "tf", "tensorflowlite"), ("tflite",)),
    **dict.fromkeys(("mlpackage", "mlmodel", "ml"), ("coreml",)),
    **dict.fromkeys(("iphone", "ios", "ipad"), ("iphone", "apple", "coreml")),
    **dict.fromkeys(("mac", "macos"), ("mac", "apple")),
    **dict.fromkeys(("android", "phone", "pixel"), ("adb",)),
    **dict.fromkeys(("local", "desktop", "pc", "here"), ("host",)),
    "cpu": ("host", "xnnpack", "wasm", "CPU_ONLY"),
    **dict.fromkeys(("web", "chrome", "firefox", "safari"), ("browser",)),
    "gpu": ("gpu-delegate", "webgpu", "CPU_AND_GPU"),
    **dict.fromkeys(("neuralengine", "npu", "ne"), ("ane", "CPU_AND_NE", "hexagon")),
    **dict.fromkeys(("qnn", "dsp", "htp"), ("hexagon",)),
    "mobile": ("idsa_net_mobile",),
    "idsa": ("idsa_net",),
}


def expect_choice(what: str, value: str, known: Iterable[str], *, error_class: type[EdgeSRError] = ConfigError) -> None:
    """Refuse a value that is none of those known.

    Args:
        what: what is chosen, first in the message: ``model``, ``--device``.
        value: as typed.
        known: the names that exist, in the order of the message.
        error_class: raised.
    """
    names = tuple(known)
    if value not in names:
        shown = visible(value, limit=60)
        raise error_class(f"{what} must be one of {', '.join(names)}, got {shown!r}{did_you_mean(value, names)}")


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """End of a message: ``; did you mean 'adb'?`` where one name or several are near what was typed, else nothing."""
    names = {_folded(name): name for name in known}
    typed = _folded(value)
    called = [name for name in _ALSO_CALLED.get(typed, ()) if name in names.values()]
    near = [names[typed]] if typed in names else called or [names[key] for key in get_close_matches(typed, names, n=1)]
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
