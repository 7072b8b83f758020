"""The networks, by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from edge_sr.choices import did_you_mean, expect_choice
from edge_sr.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Where a network lives and what it is for; its classes are imported on first use.

    ``parameters`` are counts by upscaling factor, of the training form and as deployed, with the default configuration:
    recorded here, so that naming a network's size does not take building it.
    """

    module: str
    network_class: str
    config_class: str
    summary: str
    parameters: dict[int, tuple[int, int]]


MODELS: dict[str, ModelEntry] = {
    "idsa_net": ModelEntry(
        module="edge_sr.networks.idsa",
        network_class="IDSANet",
        config_class="IDSANetConfig",
        summary="the paper's network: shared window attention, large-kernel purification, hybrid attention",
        parameters={2: (736_526, 734_064), 3: (743_021, 740_604), 4: (752_114, 749_760)},
    ),
    "idsa_net_mobile": ModelEntry(
        module="edge_sr.networks.mobile",
        network_class="IDSANetMobile",
        config_class="IDSANetMobileConfig",
        summary="the same ideas in dense convolutions, for real time in int8",
        parameters={2: (88_573, 87_801), 3: (92_908, 92_181), 4: (98_977, 98_313)},
    ),
}


def create_network(name: str, scale: int, **config: Any) -> nn.Module:
    """Build an untrained network.

    Args:
        name: one of :data:`MODELS`.
        scale: upscaling factor, 2, 3 or 4.
        config: further fields of the network's configuration dataclass; an unknown one is an error.
    Raises:
        ConfigError: unknown name, scale or field, or a field of another type.
    """
    expect_choice("model", name, MODELS)
    entry = MODELS[name]
    module = import_module(entry.module)
    config_class = getattr(module, entry.config_class)
    hints = get_type_hints(config_class)
    known = {field.name for field in fields(config_class)}
    for key, value in {"scale": scale, **config}.items():
        if key not in known:
            raise ConfigError(
                f"{name} has the settings {', '.join(sorted(known))}, got {key!r}{did_you_mean(key, known)}"
            )
        if isinstance(hints[key], type) and (
            not isinstance(value, hints[key]) or (hints[key] is int and isinstance(value, bool))
        ):
            raise ConfigError(f"{name}.{key} must be of type {hints[key].__name__}, got {value!r}")
    network: nn.Module = getattr(module, entry.network_class)(config_class(scale=scale, **config))
    return network
