"""Makers of NPUs that LiteRT's ahead-of-time compilers know besides Qualcomm, and the SoCs of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """Who makes an NPU.

    Attributes:
        name: as LiteRT spells it, and the name of the target.
        title: as printed.
        socs: what its compiler knows (ai-edge-litert 2.3.0), the default first.
    """

    name: str
    title: str
    socs: tuple[str, ...]

    @property
    def sdk_package(self) -> str:
        """The pip package that brings, or downloads when it is installed, the vendor's compiler."""
        return f"ai-edge-litert-sdk-{self.name.replace('_', '-')}"

    @property
    def sdk_module(self) -> str:
        return f"ai_edge_litert_sdk_{self.name}"


VENDORS: dict[str, Vendor] = {
    vendor.name: vendor
    for vendor in (
        Vendor(
            name="mediatek",
            title="MediaTek NPU",
            socs=(
                *("MT6991", "MT6989", "MT6985", "MT6983", "MT6993", "MT6897", "MT6895", "MT6893", "MT6886", "MT6879"),
                *("MT6878", "MT6877", "MT6853", "MT8189", "MT8188", "MT8171"),
            ),
        ),
        Vendor(name="google_tensor", title="Google Tensor", socs=("Tensor_G5", "Tensor_G3", "Tensor_G4", "Tensor_G6")),
        Vendor(name="samsung", title="Samsung NPU", socs=("E9965",)),
    )
}
