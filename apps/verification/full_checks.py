"""What agreement, seams, colours and ARM numerics promise, as checks of the gate."""

from __future__ import annotations

from collections.abc import Iterable

from apps.verification.agreement import FAKE_QUANT, FLOAT, QDQ, Agreement, AgreementMatrix, Participant
from apps.verification.agreement_limits import MAGNIFIED, AgreementLimits, limits_of
from apps.verification.arm import ArmCheck
from apps.verification.colour_card import ColourCard
from apps.verification.gate import GateCheck
from apps.verification.seam_certificate import SeamCertificate


def agreement_checks(matrices: Iterable[AgreementMatrix]) -> tuple[GateCheck, ...]:
    """One check per artifact and runtime: it computes what the network behind it does, as near as its runtime can."""
    return tuple(
        _agreement_check(matrix, participant)
        for matrix in matrices
        for participant in matrix.participants
        if participant.artifact_name is not None
    )


def _agreement_check(matrix: AgreementMatrix, participant: Participant) -> GateCheck:
    reference = next((entry for entry in matrix.participants if entry.name in (FAKE_QUANT, FLOAT)), None)
    name = participant.artifact_name or ""
    title = f"agreement in {participant.runtime}"
    if participant.psnr_y_db is None or reference is None or reference.psnr_y_db is None:
        reason = participant.reason or "there is no network in PyTorch to compare with"
        return GateCheck(name=title, artifact=name, status="skipped", message=reason)
    off = abs(participant.psnr_y_db - reference.psnr_y_db)
    pair = matrix.pair(reference.name, participant.name)
    levels = "" if pair is None else f", at most {_levels(pair.max_levels)} apart"
    limits = limits_of(participant.runtime, matrix.scheme)
    broken = [] if off <= limits.psnr_y_db else [f"a PSNR within {limits.psnr_y_db:g}"]
    broken += [] if pair is None else _broken_levels(pair, limits, matrix.pair(FAKE_QUANT, QDQ))
    held = not broken
    whose = f"dB of the {reference.name} network's on the same tiles"
    if held:
        message = f"PSNR within {off:.4f} {whose}{levels}"
    else:
        message = f"expected {' and '.join(broken)} {whose}, got {off:.4f} dB{levels}"
        found = next((entry for entry in matrix.divergences if entry.participant == participant.name), None)
        message += "" if found is None else f"; {found.sentence()}"
    return GateCheck(
        name=title,
        artifact=name,
        status="passed" if held else "failed",
        message=message,
        measured=off,
        limit=limits.psnr_y_db,
    )


def _broken_levels(pair: Agreement, limits: AgreementLimits, own: Agreement | None) -> list[str]:
    """``own``: the network against the graph that converters get, both in PyTorch."""
    if own is not None and _broken_levels(own, limits, None):
        most = MAGNIFIED * own.mean_levels
        line = f"a mean difference of at most {most:.2f} levels, {MAGNIFIED:g} times PyTorch's own (got {{:.2f}})"
        return [] if pair.mean_levels <= most else [line.format(pair.mean_levels)]
    broken = []
    if limits.max_levels is not None and pair.max_levels > limits.max_levels:
        broken.append(f"at most {_levels(limits.max_levels)}")
    if pair.share_equal < limits.share_equal:
        broken.append(f"{limits.share_equal:.0%} of the values equal (got {pair.share_equal:.1%})")
    if pair.share_over_1 > limits.share_over_1:
        broken.append(f"{1 - limits.share_over_1:.0%} within 1 level (got {1 - pair.share_over_1:.1%})")
    return broken


def seam_checks(certificates: Iterable[SeamCertificate]) -> tuple[GateCheck, ...]:
    """One check per artifact: its own overlap shows no seam, where a larger one would not."""
    return tuple(
        GateCheck(
            name="seams",
            artifact=certificate.artifact,
            status="failed" if certificate.failures else "passed",
            message=certificate.failures[0] if certificate.failures else certificate.verdict,
            measured=float(certificate.own_row.seam_max_levels),
            limit=None,
            unit="levels",
        )
        for certificate in certificates
    )


def colour_checks(cards: Iterable[ColourCard]) -> tuple[GateCheck, ...]:
    """One check per broken limit of a card, or a single one that passed."""
    checks = []
    for card in cards:
        if not card.failures:
            levels, _ = card.worst("max_difference_levels")
            message = f"{len(card.measures)} charts within their limits, flats and ramps within {_levels(int(levels))}"
            checks.append(GateCheck(name="colour card", artifact=card.artifact, status="passed", message=message))
        checks += [
            GateCheck(name="colour card", artifact=card.artifact, status="failed", message=line)
            for line in card.failures
        ]
    return tuple(checks)


def arm_checks(found: Iterable[ArmCheck]) -> tuple[GateCheck, ...]:
    """One check per emulated CPU."""
    return tuple(
        GateCheck(
            name=f"ARM numerics, {check.cpu}",
            artifact=check.artifact_name,
            status="passed" if check.passed else "failed",
            message=_arm_message(check),
            measured=float(check.max_levels),
            limit=float(check.allowed_levels),
            unit="levels",
        )
        for check in found
    )


def _arm_message(check: ArmCheck) -> str:
    if check.identical:
        return "the bytes of this machine's results"
    if check.passed:
        return f"results within {_levels(check.max_levels)} of this machine's"
    if check.allowed_levels == 0:
        return f"expected the bytes of this machine's results, got others, up to {_levels(check.max_levels)} away"
    return f"expected results within {_levels(check.allowed_levels)} of this machine's, got {check.max_levels}"


def _levels(count: int) -> str:
    return f"{count} level{'' if count == 1 else 's'}"
