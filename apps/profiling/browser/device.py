"""Naming the device from what its browser tells, without ever calling a browser on this machine a phone."""

from __future__ import annotations

import re

from apps.profiling.browser.results import BrowserDevice, Configuration
from apps.profiling.browser.schema import Adapter, Hello

# More threads than a phone has big cores make a network slower, so four where nobody asks for a number.
MOST_DEFAULT_THREADS = 4
# Browsers not isolated from other origins get a clock of 0.1 ms (Chromium) to 1 ms (Firefox, Safari).
_COARSE_CLOCK_MS = 0.05
_HTTPS_CURE = "start again with --https, or connect by USB and let adb reverse carry the port"

_BROWSERS = (
    (r"HeadlessChrome/([\d.]+)", "Headless Chromium"),
    (r"EdgA?/([\d.]+)", "Edge"),
    (r"SamsungBrowser/([\d.]+)", "Samsung Internet"),
    (r"OPR/([\d.]+)", "Opera"),
    (r"(?:Firefox|FxiOS)/([\d.]+)", "Firefox"),
    (r"(?:Chrome|CriOS)/([\d.]+)", "Chrome"),
    (r"Version/([\d.]+).* Safari/", "Safari"),
)
_SYSTEMS = (
    (r"iPhone OS (\d+(?:_\d+)*)", "iPhone, iOS {}"),
    (r"CPU OS (\d+(?:_\d+)*)", "iPad, iPadOS {}"),
    (r"Android (\d+(?:\.\d+)*)", "Android {}"),
    (r"CrOS \S+ ([\d.]+)", "ChromeOS {}"),
    (r"Mac OS X (\d+(?:[_.]\d+)*)", "macOS {}"),
    (r"Windows NT ([\d.]+)", "Windows NT {}"),
    (r"(Linux)", "{}"),
)
_EMULATOR_MODELS = ("sdk_gphone", "Android SDK built for", "Emulator")
_SOFTWARE_GPUS = ("swiftshader", "llvmpipe", "lavapipe", "warp")


def describe_device(hello: Hello, *, address: str, own_addresses: frozenset[str], secure_url: bool) -> BrowserDevice:
    """Say what the page runs on.

    Args:
        hello: what the page sent.
        address: where the connection came from.
        own_addresses: addresses of this machine: a connection from one is a browser here, or a tunnel to a phone.
        secure_url: whether the page was served over https.
    """
    browser, system = browser_name(hello), system_name(hello)
    here = address in own_addresses
    kind = _kind(hello, here=here)
    model = hello.client_hints.model if hello.client_hints else ""
    named = f"{model} ({system})" if model else system
    title = {
        "headless on this host": f"{browser} on this host",
        "this host": f"{browser} on this host ({system})",
        "emulator": f"emulator: {named}, {browser}",
    }.get(kind, f"{named}, {browser}")
    if here and kind == "phone":
        title += ", through a tunnel to this host"
    return BrowserDevice(
        title=title,
        kind=kind,
        browser=browser,
        address=address,
        facts=hello.model_dump(exclude={"resume"}),
        hints=_hints(hello, secure_url=secure_url),
    )


def browser_name(hello: Hello) -> str:
    """Name and version, from client hints where there are some, else from the user agent."""
    headless = re.search(_BROWSERS[0][0], hello.user_agent)
    brands = hello.client_hints.brands if hello.client_hints else []
    # Browsers add a made-up brand ("Not)A;Brand", "Not;A=Brand") so that nobody relies on the list.
    real = [brand for brand in brands if not re.match(r"\W*Not\W", brand.brand)]
    own = [brand for brand in real if brand.brand != "Chromium"] or real
    if headless:
        return f"{_BROWSERS[0][1]} {own[0].version if own else headless[1]}"
    if own:
        return f"{own[0].brand} {own[0].version}"
    for pattern, name in _BROWSERS:
        if found := re.search(pattern, hello.user_agent):
            return f"{name} {found[1]}"
    return "unknown browser"


def system_name(hello: Hello) -> str:
    """Operating system and version; without client hints browsers freeze both (Android 10, Mac OS X 10.15.7)."""
    hints = hello.client_hints
    if hints and hints.platform:
        return f"{hints.platform} {hints.platform_version}".strip()
    for pattern, name in _SYSTEMS:
        if found := re.search(pattern, hello.user_agent):
            return name.format(found[1].replace("_", "."))
    return "unknown system"


def is_software_gpu(adapter: Adapter) -> bool:
    """Whether WebGPU runs on the processor."""
    words = f"{adapter.vendor} {adapter.architecture} {adapter.device} {adapter.description}".lower()
    return adapter.fallback or any(name in words for name in _SOFTWARE_GPUS)


def facts_lines(hello: Hello) -> list[str]:
    """A few words each, for the top of the page."""
    count = hello.hardware_concurrency
    cores = "processors unknown" if count is None else f"{count} processor{'s' if count > 1 else ''}"
    if hello.webgpu is None:
        gpu = "no WebGPU"
    else:
        named = " ".join(part for part in (hello.webgpu.vendor, hello.webgpu.architecture) if part) or "adapter unnamed"
        gpu = f"WebGPU: {named}{' (software, not a GPU)' if is_software_gpu(hello.webgpu) else ''}"
    return [cores, gpu, f"clock steps {hello.clock_resolution_ms * 1000:.0f} µs"]


def default_threads(hello: Hello) -> tuple[int, ...]:
    """One thread, and as many as are likely to help."""
    return tuple(dict.fromkeys((1, min(MOST_DEFAULT_THREADS, hello.hardware_concurrency or 1))))


def why_unavailable(configuration: Configuration, hello: Hello) -> str | None:
    """Why this browser cannot run a configuration, or None where it can be tried."""
    if configuration.backend == "webgpu":
        if not hello.secure_context:
            return "WebGPU needs a secure page (https, or localhost)"
        if hello.webgpu is None:
            return "this browser offers no WebGPU"
        if configuration.precision == "fp16" and not hello.webgpu.shader_f16:
            return "this GPU has no 16-bit arithmetic in WebGPU"
        return None
    if configuration.threads == 1:
        return None
    if not hello.cross_origin_isolated:
        return "threads need an isolated, secure page (https, or localhost)"
    # LiteRT.js 2.5.3 starts as many helpers as there are processors; waiting for one more would never end.
    if configuration.threads > (hello.hardware_concurrency or 1) + 1:
        return f"the browser says that it has {hello.hardware_concurrency or 1} processors, too few for so many threads"
    return None


def _kind(hello: Hello, *, here: bool) -> str:
    hints = hello.client_hints
    if hints and any(hints.model.startswith(name) for name in _EMULATOR_MODELS):
        return "emulator"
    mobile = bool(hints and hints.mobile) or bool(re.search(r"Android|iPhone|iPad", hello.user_agent))
    if here:
        # A tunnel (adb reverse) comes from this machine as well; a browser that is driven by a program is none.
        if hello.automated or "Headless" in hello.user_agent:
            return "headless on this host"
        return "phone" if mobile else "this host"
    return "phone" if mobile else "computer"


def _hints(hello: Hello, *, secure_url: bool) -> tuple[str, ...]:
    hints = []
    if not hello.secure_context:
        lost = "one thread only, no WebGPU, and a clock of 0.1 ms or coarser (each sample is a batch of runs)"
        hints.append(f"Plain http is not a secure page: {lost}. For the rest, {_HTTPS_CURE}.")
    elif not hello.cross_origin_isolated:
        hints.append("The page is not isolated in this browser, so threads are off; a current browser allows them.")
    elif hello.clock_resolution_ms > _COARSE_CLOCK_MS:
        hints.append("This browser's clock is coarse; each sample is a batch of runs, so that it does not matter.")
    if hello.secure_context and hello.webgpu is None:
        hints.append("No WebGPU: a current Chrome, Edge or Safari has it on most phones; it may be off in settings.")
    if secure_url and not hello.cross_origin_isolated:
        hints.append("Some browsers refuse to isolate a page whose certificate they do not know.")
    return tuple(hints)
