"""The Snapdragons that LiteRT's ahead-of-time compiler knows, and which Hexagon each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from converters.artifact_meta import Compiled
from edge_sr.choices import expect_choice
from edge_sr.errors import ArtifactError, ConfigError

Arithmetic = Literal["v68", "v73"]


@dataclass(frozen=True, kw_only=True)
class Soc:
    """One system on a chip.

    Attributes:
        name: as Qualcomm and LiteRT spell it.
        title: as phones are sold with it.
        architecture: of its Hexagon, as "v79".
        soc_model: Qualcomm's number for it; libraries that are not told one take the oldest without a word.
    """

    name: str
    title: str
    architecture: str
    soc_model: int

    @property
    def arithmetic(self) -> Arithmetic:
        """How it rounds: v68 and v69 alike, v73 and later alike, and the two kinds otherwise than one another."""
        return "v68" if self.architecture in ("v68", "v69") else "v73"

    @property
    def has_half_floats(self) -> bool:
        """Whether it computes in fp16: Hexagon v68 does not."""
        return self.architecture != "v68"


# Numbers and architectures as LiteRT's plugin (ai-edge-litert 2.3.0) and QNN 2.51 print them while they compile.
SOCS: dict[str, Soc] = {
    soc.name: soc
    for soc in (
        Soc(name="SM8350", title="Snapdragon 888", architecture="v68", soc_model=30),
        Soc(name="SM8450", title="Snapdragon 8 Gen 1", architecture="v69", soc_model=36),
        Soc(name="SM8475", title="Snapdragon 8+ Gen 1", architecture="v69", soc_model=42),
        Soc(name="SM8550", title="Snapdragon 8 Gen 2", architecture="v73", soc_model=43),
        Soc(name="SM8650", title="Snapdragon 8 Gen 3", architecture="v75", soc_model=57),
        Soc(name="SM8750", title="Snapdragon 8 Elite", architecture="v79", soc_model=69),
        Soc(name="SM8845", title="Snapdragon 8 Gen 5", architecture="v81", soc_model=97),
        Soc(name="SM8850", title="Snapdragon 8 Elite Gen 5", architecture="v81", soc_model=87),
        Soc(name="SA8295", title="Snapdragon Cockpit SA8295P", architecture="v68", soc_model=39),
        Soc(name="SA8255", title="Snapdragon Cockpit SA8255P", architecture="v73", soc_model=52),
    )
}
DEFAULT_SOC = "SM8750"
# What stands for a kind of arithmetic where nothing is compiled; fp16 wants one that has it.
_STANDS_FOR: dict[Arithmetic, tuple[str, str]] = {"v68": ("SM8350", "SM8450"), "v73": ("SM8750", "SM8750")}


def get_soc(name: str) -> Soc:
    """The system on a chip called ``name``; ConfigError names those that exist."""
    expect_choice("SoC of Qualcomm", name, SOCS)
    return SOCS[name]


def socs_for(names: Sequence[str], scheme: str) -> list[Soc]:
    """The systems on a chip called so, each once; the default one where none is named.

    Raises:
        ConfigError: there is no such one, or its NPU cannot do the scheme.
    """
    socs = [get_soc(name) for name in dict.fromkeys(names or (DEFAULT_SOC,))]
    for soc in socs:
        if scheme == "fp16" and not soc.has_half_floats:
            raise ConfigError(
                f"expected an NPU that has fp16, got {soc.name} (Hexagon {soc.architecture}); "
                "leave it out, or export w8a8"
            )
    return socs


def soc_of(compiled: Compiled, file: str) -> Soc:
    """The one that an artifact's file is compiled for; ArtifactError where what is said of it contradicts itself."""
    soc = SOCS.get(compiled.soc)
    if soc is None or soc.architecture != compiled.architecture or not file.startswith(f"model_{soc.name}."):
        raise ArtifactError(
            f"expected {file} to be compiled for a chip of its name, got {compiled.soc} with Hexagon "
            f"{compiled.architecture}; export the artifact again"
        )
    return soc


def soc_for(arithmetic: Arithmetic, *, half_floats: bool) -> Soc:
    """The one whose Hexagon stands for ``arithmetic``."""
    return SOCS[_STANDS_FOR[arithmetic][half_floats]]
