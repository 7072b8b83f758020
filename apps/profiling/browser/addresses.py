"""How a browser reaches this machine: addresses, the code to scan, and a certificate for https."""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import psutil

from edge_sr.errors import ConfigError, MissingToolError

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
_CERTIFICATE_DAYS = 7
_OPENSSL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A self-signed certificate. ``fingerprint`` is the SHA-256 that browsers show, in pairs of hex digits."""

    certificate: Path
    key: Path
    fingerprint: str


def lan_addresses() -> tuple[str, ...]:
    """IPv4 addresses of this machine that another device may reach; the one of the default route first."""
    found = [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        if psutil.net_if_stats().get(name) is not None and psutil.net_if_stats()[name].isup
        for entry in entries
        if entry.family == socket.AF_INET and not _is_local(entry.address)
    ]
    default = _default_address()
    return tuple(sorted(dict.fromkeys(found), key=lambda address: (address != default, found.index(address))))


def own_addresses() -> frozenset[str]:
    """All IPv4 addresses of this machine, loopback among them."""
    entries = (entry for entries in psutil.net_if_addrs().values() for entry in entries)
    return frozenset({LOOPBACK, *(entry.address for entry in entries if entry.family == socket.AF_INET)})


def choose_lan_address() -> str:
    """The address to print.

    Raises:
        ConfigError: this machine is in no network.
    """
    addresses = lan_addresses()
    if not addresses:
        raise ConfigError("expected a network that a phone can reach, got loopback only; connect to one, or use USB")
    return addresses[0]


def qr_code(url: str, *, coloured: bool = False) -> str:
    """The address as a code for a terminal, two modules per character.

    Args:
        url: what to encode.
        coloured: with escape codes for white on black, so that it is no negative on a light terminal.
    """
    import segno

    drawn = StringIO()
    segno.make(url, error="l", micro=False).terminal(drawn, compact=True, border=2)
    lines = drawn.getvalue().splitlines()
    return "\n".join(f"\x1b[38;5;231;48;5;16m{line}\x1b[0m" if coloured else line for line in lines)


def make_certificate(folder: Path, addresses: tuple[str, ...]) -> Certificate:
    """Make a fresh key and a certificate for these addresses, with the openssl program.

    Raises:
        MissingToolError: openssl is not installed, or cannot do it.
    """
    program = shutil.which("openssl")
    if program is None:
        raise MissingToolError("--https needs the openssl program, got none on PATH; install it, or leave out --https")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in addresses)])
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", str(_CERTIFICATE_DAYS)]
    command += ["-subj", "/CN=edge-sr", "-addext", f"subjectAltName={names}"]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_OPENSSL_SECONDS, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise MissingToolError(f"openssl made no certificate: {said[-1][:200]}; leave out --https")
    key.chmod(0o600)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))
    digest = hashlib.sha256(der).hexdigest().upper()
    pairs = ":".join(digest[start : start + 2] for start in range(0, len(digest), 2))
    return Certificate(certificate=certificate, key=key, fingerprint=pairs)


def _default_address() -> str:
    # Connecting a datagram socket sends nothing; it only asks which way would be taken. The address is kept for
    # documentation (RFC 5737) and exists nowhere.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _is_local(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified
