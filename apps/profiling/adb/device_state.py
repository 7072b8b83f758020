"""What a device is, and what state it is in: read once, and before and after every run."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from apps.profiling.adb.adb import Adb, Listed
from edge_sr.errors import RunnerError
from edge_sr.foreign_text import real_number, visible, whole_number

# Android's emulators, its cloud device, and the emulators of others name their board so.
_VIRTUAL_HARDWARE = ("ranchu", "goldfish", "cutf", "vsoc", "vbox86", "redroid", "waydroid")
# Of android.os.Temperature: what thermalservice calls a sensor by number. Older Samsung phones number otherwise, but
# name their sensors.
_SKIN_TYPE = 3
_THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
# Beyond these no reading is believed.
_COLDEST_C, _HOTTEST_C, _MOST_CORES, _MOST_KHZ = -60.0, 150.0, 1024, 10**8
_CHARGING_STATUS = {2: True, 3: False, 4: False, 5: True}  # charging, discharging, not charging, full

_INFO_SCRIPT = """
echo @@props; getprop
echo @@system; if [ -e /system/bin/sh ]; then echo android; fi
echo @@cores
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  f=-; [ -r $c/cpufreq/cpuinfo_max_freq ] && f=$(cat $c/cpufreq/cpuinfo_max_freq)
  echo "${c##*/cpu} $f"
done
echo @@end
"""
_STATE_SCRIPT = """
echo @@battery; dumpsys battery 2>/dev/null
echo @@thermal; dumpsys thermalservice 2>/dev/null
echo @@low_power; settings get global low_power 2>/dev/null
echo @@cores
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  g=-; f=-
  [ -r $c/cpufreq/scaling_governor ] && g=$(cat $c/cpufreq/scaling_governor)
  [ -r $c/cpufreq/scaling_cur_freq ] && f=$(cat $c/cpufreq/scaling_cur_freq 2>/dev/null)
  echo "${c##*/cpu} $g ${f:--}"
done
echo @@end
"""


@dataclass(frozen=True, kw_only=True)
class Core:
    """A processor core: its number and its highest frequency in kHz, None where the device keeps it to itself."""

    index: int
    max_khz: int | None


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """A device, named as its makers name it.

    ``emulator`` says by what an emulated device was recognized, None on a real one. ``abis`` are what it can run, best
    first.
    """

    serial: str
    manufacturer: str
    model: str
    soc: str
    android_version: str
    sdk: str
    build: str
    abis: tuple[str, ...]
    cores: tuple[Core, ...]
    emulator: str | None

    @property
    def kind(self) -> str:
        """``phone`` (any real Android device), or ``emulator``."""
        return "phone" if self.emulator is None else "emulator"

    @property
    def title(self) -> str:
        """For tables and reports; an emulator never goes under a phone's name alone."""
        name = f"{self.manufacturer} {self.model}".strip()
        if self.emulator is not None:
            return f"emulator ({self.emulator}), calling itself {name}"
        return f"{name}, {self.soc}, Android {self.android_version}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "title": self.title, **asdict(self)}

    def big_cores_mask(self, threads: int) -> tuple[str | None, str]:
        """The cores to pin ``threads`` threads to, as taskset's hexadecimal mask, and why (or why not).

        Whole clusters from the fastest down, until each thread has a core.
        """
        speeds = sorted({core.max_khz for core in self.cores if core.max_khz is not None}, reverse=True)
        if not speeds or any(core.max_khz is None for core in self.cores):
            return None, "not pinned: the cores' frequencies cannot be read on this device"
        if len(speeds) == 1:
            return None, "not pinned: all cores of this device are of one speed"
        chosen: list[Core] = []
        for speed in speeds:
            chosen += [core for core in self.cores if core.max_khz == speed]
            if len(chosen) >= threads:
                break
        mask = sum(1 << core.index for core in chosen)
        listed = ", ".join(str(core.index) for core in sorted(chosen, key=lambda core: core.index))
        return f"{mask:x}", f"pinned to cores {listed} (up to {speeds[0] / 1e6:.2f} GHz)"


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """A moment of a device. Temperatures in degrees Celsius; None for whatever the device does not tell.

    ``thermal_status`` is Android's throttling word, from ``none`` to ``shutdown``. ``governors`` and ``current_khz``
    are per core. ``low_power`` is the battery saver, which slows the processor.
    """

    battery_percent: int | None
    battery_c: float | None
    charging: bool | None
    thermal_status: str | None
    temperatures_c: dict[str, float]
    skin_c: float | None
    low_power: bool | None
    governors: tuple[str, ...]
    current_khz: tuple[int | None, ...]

    @property
    def governor(self) -> str:
        """The governors in use, each once."""
        return ", ".join(dict.fromkeys(self.governors)) or "not readable"

    @property
    def warmth(self) -> tuple[str | None, float | None]:
        """The sensor to cool down by and its temperature: the skin's, which throttling goes by, else the battery's."""
        if self.skin_c is not None:
            return "skin", self.skin_c
        if self.battery_c is not None:
            return "battery", self.battery_c
        return None, None

    @property
    def throttled(self) -> bool:
        return self.thermal_status not in (None, "none")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "governor": self.governor}


def read_device(adb: Adb, listed: Listed) -> DeviceInfo:
    """Ask a device what it is.

    Raises:
        DeviceLost: it is gone.
        RunnerError: its shell does not answer.
    """
    done = adb.shell(_INFO_SCRIPT, what="reading the device")
    return parse_device(done.out, listed.serial)


def parse_device(text: str, serial: str) -> DeviceInfo:
    """Read what the device's shell printed for ``_INFO_SCRIPT``."""
    sections = _sections(text)
    if "end" not in sections:
        raise RunnerError(
            f"expected {serial} to describe itself, got {visible(text, limit=100)}; check adb -s {serial} shell"
        )
    props = dict(re.findall(r"^\[([^\]]+)\]: \[(.*?)\]\s*$", sections.get("props", ""), re.MULTILINE))

    def first(*names: str) -> str:
        return next((props[name] for name in names if props.get(name)), "unknown")

    makers = [props.get(name, "") for name in ("ro.soc.manufacturer", "ro.soc.model")]
    soc = " ".join(value for value in makers if value not in ("", "unknown"))
    return DeviceInfo(
        serial=serial,
        manufacturer=first("ro.product.manufacturer", "ro.product.brand"),
        model=first("ro.product.model"),
        # Before Android 12 there is no ro.soc; the platform names the chip well enough.
        soc=soc or first("ro.board.platform", "ro.hardware.chipname", "ro.hardware"),
        android_version=first("ro.build.version.release"),
        sdk=first("ro.build.version.sdk"),
        build=first("ro.build.fingerprint", "ro.build.id"),
        abis=tuple(abi for abi in first("ro.product.cpu.abilist", "ro.product.cpu.abi").split(",") if abi != "unknown"),
        cores=tuple(
            Core(index=index, max_khz=whole_number(speed, least=1, most=_MOST_KHZ))
            for index, (speed,) in _cores(sections, 1)
        ),
        emulator=_emulator(props, serial, real_android="android" in sections.get("system", "")),
    )


def read_state(adb: Adb) -> DeviceState:
    """Ask a device how it is; whatever it does not tell is None.

    Raises:
        DeviceLost: it is gone.
    """
    return parse_state(adb.shell(_STATE_SCRIPT, what="reading the device's state").out)


def parse_state(text: str) -> DeviceState:
    """Read what the device's shell printed for ``_STATE_SCRIPT``."""
    sections = _sections(text)
    battery = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", sections.get("battery", ""), re.MULTILINE))
    status, temperatures, skin = parse_thermalservice(sections.get("thermal", ""))
    cores = _cores(sections, 2)
    low_power = sections.get("low_power", "").strip()
    level, scale = whole_number(battery.get("level")), whole_number(battery.get("scale")) or 100
    tenths = real_number(battery.get("temperature", ""), least=10 * _COLDEST_C, most=10 * _HOTTEST_C)
    return DeviceState(
        battery_percent=None if level is None or level > scale else round(100 * level / scale),
        battery_c=None if tenths is None else tenths / 10.0,
        charging=_CHARGING_STATUS.get(whole_number(battery.get("status")) or 0),
        thermal_status=status,
        temperatures_c=temperatures,
        skin_c=skin,
        low_power=None if low_power not in ("0", "1") else low_power == "1",
        governors=tuple(governor for _, (governor, _) in cores if governor != "-"),
        current_khz=tuple(whole_number(frequency, most=_MOST_KHZ) for _, (_, frequency) in cores),
    )


def parse_thermalservice(text: str) -> tuple[str | None, dict[str, float], float | None]:
    """Status, current temperatures by sensor, and the warmest skin sensor, from ``dumpsys thermalservice``.

    The cached temperatures that the service prints first may be hours old: only what follows ``Current temperatures
    from HAL`` counts. Sensors without a value (-99.9, 0.0, NaN) are left out.
    """
    found = re.search(r"Thermal Status: ([0-9]+)", text)
    code = whole_number(found[1]) if found else None
    status = None if code is None else _THERMAL_STATUS[code] if code < len(_THERMAL_STATUS) else f"status {code}"
    current = text.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    temperatures: dict[str, float] = {}
    skins: list[float] = []
    for value, kind, name in re.findall(r"Temperature\{mValue=([^,]+), mType=(-?\d+), mName=([^,}]+)", current):
        degrees = real_number(value, most=_HOTTEST_C)
        if not degrees:
            continue
        temperatures[name] = degrees
        if "skin" in name.lower() or (whole_number(kind) == _SKIN_TYPE and not name.startswith("TYPE_")):
            skins.append(degrees)
    return status, temperatures, max(skins, default=None)


def _emulator(props: dict[str, str], serial: str, *, real_android: bool) -> str | None:
    for name in ("ro.kernel.qemu", "ro.boot.qemu"):
        if props.get(name) == "1":
            return f"{name}=1"
    hardware = props.get("ro.hardware", "")
    if hardware.startswith(_VIRTUAL_HARDWARE):
        return f"ro.hardware={hardware}"
    if props.get("ro.product.model", "").startswith(("sdk_gphone", "Android SDK built for")):
        return f"ro.product.model={props['ro.product.model']}"
    if serial.startswith("emulator-"):
        return f"serial {serial}"
    if not real_android:
        return "no Android system there"
    return None


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^@@(\w+)\s*$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _cores(sections: dict[str, str], words: int) -> list[tuple[int, tuple[str, ...]]]:
    """The cores' lines, each a number and so many words, by number."""
    found: dict[int, tuple[str, ...]] = {}
    for line in sections.get("cores", "").splitlines():
        number, *rest = line.split(" ")
        index = whole_number(number, most=_MOST_CORES - 1)
        if index is not None and len(rest) == words and all(rest):
            found[index] = tuple(rest)
    return sorted(found.items())
