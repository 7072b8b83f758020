"""A report for each table that the command line prints, with names and numbers as long as real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from apps.exporting import ExportReport, ExportRow
from apps.history.compare import AccuracyComparison, CompareReport, LatencyComparison, Side
from apps.history.history_view import print_compare, print_history
from apps.history.measurement import ACCURACY, LATENCY, Measurement
from apps.lint.engine import Forecast, LintReport, OpForecast
from apps.lint.lint_view import print_lint
from apps.lint.placement import OUTSIDE
from apps.lint.rules import Finding, Place
from apps.planning.planner import Option, TileCost, TilePlan
from apps.planning.planner_view import print_plan
from apps.profiling.adb.device_state import Core, DeviceInfo, DeviceState
from apps.profiling.adb.results import AdbReport, AdbRow, DelegationSeen, DeviceNumerics, SampledTiming
from apps.profiling.adb_view import print_adb, print_apple
from apps.profiling.apple_results import AppleReport, AppleRow, ComputePlan, DeviceShare
from apps.profiling.browser.results import (
    BrowserDevice,
    BrowserNumerics,
    BrowserReport,
    BrowserRow,
    BrowserTiming,
    Configuration,
)
from apps.profiling.browser_view import print_browser
from apps.profiling.layer_results import OPERATOR_PROFILE, LayerCost, LayerProfile
from apps.profiling.layers_view import print_layers
from apps.profiling.part_latency import LatencyByPart, PartLatency
from apps.profiling.roofline import RooflineReport, RooflineRow
from apps.profiling.roofline_view import print_roofline
from apps.results import ProfileReport, ProfileRow, Timing
from apps.sensitivity import SensitivityReport, Variant
from apps.sensitivity_view import print_sensitivity
from apps.tables import print_export, print_profile, print_verify
from apps.verification.accuracy import VerifyReport
from apps.verification.agreement import Agreement, AgreementMatrix, Participant
from apps.verification.agreement_view import print_agreement
from apps.verification.arm import ArmCheck
from apps.verification.arm_view import print_arm
from apps.verification.artifact_diff import ArtifactDiff, Change, GraphChange
from apps.verification.artifact_diff_view import print_diff
from apps.verification.chart_measures import ChartMeasure
from apps.verification.colour_card import ColourCard, ColourLimits
from apps.verification.colour_card_view import print_colour_card
from apps.verification.gate import GateCheck, GateLimits
from apps.verification.gate_view import print_gate
from apps.verification.layer_diff import LayerChange, ScaleChange
from apps.verification.output_diff import OutputChange
from apps.verification.rows import VerifyRow
from apps.verification.sample_tiles import SampleTile
from apps.verification.seam_certificate import SeamCertificate, SeamRow, WorstSeam
from apps.verification.seam_probe import SeamDifference
from apps.verification.seams_view import print_seams
from apps.verification.waterfall import WaterfallReport, WaterfallRow
from apps.verification.waterfall_view import print_waterfall
from apps.verification.worst_tile import WorstTile
from edge_sr.evaluation import ImageScore, SetScore
from edge_sr.reach import LayerReach, Reach
from quantization.places import BLOCK, OP
from quantization.sensitivity import Effect, PartSensitivity, Sensitivity

ARTIFACTS = (
    "idsa_net_mobile_x4_w8a8_mixed_executorch_128x128",
    "idsa_net_mobile_x4_w8a8_tflite_64x64",
    "idsa_net_mobile_x4_fp32_coreml_128x128",
    "idsa_net_x4_w8a8_tflite_128x128",
)
NO_MAC = (
    "needs macOS, got Linux: copy the artifact folder to a Mac, install coremltools there, and run the same command"
)
_PIXELS = np.zeros((8, 8, 3), np.uint8)


def _made(name: str) -> dict[str, Any]:
    """What a row of most reports says of the artifact that it is about."""
    scheme = next(scheme for scheme in ("w8a8_mixed", "w8a8", "fp32") if f"_{scheme}_" in name)
    target = next(target for target in ("executorch", "tflite", "coreml") if f"_{target}_" in name)
    path = Path("/photos/of/last/summer/out/artifacts") / name
    return {"artifact_path": path, "model": "idsa_net_mobile", "scheme": scheme, "target": target, "tile": (128, 128)}


def _score(psnr: float, name: str = "Set14", image: str = "woman_with_hat") -> SetScore:
    return SetScore(set_name=name, scale=4, images=(ImageScore(name=image, psnr_y_db=psnr, ssim=0.8123),))


def _export() -> None:
    rows = [
        ExportRow(
            **{key: value for key, value in _made(name).items() if key != "artifact_path"},
            scale=4,
            weights="post-training",
            path=_made(name)["artifact_path"],
            size_bytes=1_234_567 + 10_000 * index,
            seconds=123.4 + index,
            delegates=1,
            ops_outside={"RESHAPE": 12, "TRANSPOSE": 34, "GATHER_ND": 56} if index else {},
        )
        for index, name in enumerate(ARTIFACTS[:3])
    ]
    failed = ExportRow(
        **{key: value for key, value in _made(ARTIFACTS[2]).items() if key != "artifact_path"},
        scale=4,
        weights="post-training",
        path=None,
        size_bytes=None,
        seconds=7.0,
        error=NO_MAC,
    )
    print_export(ExportReport(rows=(*rows, failed)))


def _verify() -> None:
    rows = tuple(
        VerifyRow(
            **_made(name),
            runtime=_made(name)["target"],
            overlap=16,
            float_whole=_score(28.4321),
            float_tiled=_score(28.4019),
            artifact=None if "coreml" in name else _score(28.1234 + index / 100),
            reason=NO_MAC if "coreml" in name else None,
        )
        for index, name in enumerate(ARTIFACTS)
    )
    print_verify(VerifyReport(rows=rows, limits=GateLimits(), checks=()))


def _timing(median: float) -> Timing:
    return Timing(
        threads=2,
        load_ms=1234.56,
        first_ms=2345.67,
        warmup_runs=3,
        samples_ms=(median, median, 1.32 * median),
        peak_rss_bytes=1_234_000_000,
        base_rss_bytes=1,
        runtime="ai-edge-litert",
        runtime_version="2.3.0",
    )


def _profile() -> None:
    rows = tuple(
        ProfileRow(
            **_made(name),
            scale=4,
            overlap=16,
            device="host",
            threads=threads,
            timing=None if "coreml" in name else _timing(501.17 + index + 10 * threads),
            reason=NO_MAC if "coreml" in name else None,
        )
        for index, name in enumerate(ARTIFACTS)
        for threads in (1, 2)
    )
    print_profile(ProfileReport(rows=rows, device="host"))


def _measured(name: str, index: int, **changed: Any) -> Measurement:
    facts = _made(name)
    facts |= {"artifact_name": facts.pop("artifact_path").name, "artifact_sha256": f"{index}a67c885b" * 8, "scale": 4}
    facts |= {"kind": LATENCY, "created": f"2026-01-{10 + index}T12:34:5{index}+00:00", "device_kind": "host"}
    facts |= {"device": "AMD EPYC 7B13 64-Core Processor", "runtime": "ai-edge-litert", "runtime_version": "2.3.0"}
    facts |= {"threads": 2, "samples_ms": (501.17 + index, 501.17 + index, 656.53 + index) * 4}
    return Measurement(**{**facts, **changed})


def _history() -> None:
    latency = [_measured(name, index) for index, name in enumerate(ARTIFACTS)]
    phone = {"device_kind": "adb", "device": "Google Pixel 9 Pro XL", "backend": "xnnpack"}
    score = {"kind": ACCURACY, "samples_ms": (), "set_name": "Urban100", "psnr_y_db": 26.1234, "images": 100}
    print_history([*latency, _measured(ARTIFACTS[0], 5, **phone), _measured(ARTIFACTS[1], 6, **score)])


def _compare() -> None:
    def side(label: str, median: float) -> Side:
        interval = (median - 1.11, median + 1.11)
        return Side(label=label, launches=12, samples=1200, median_ms=median, interval_ms=interval)

    rows = tuple(
        LatencyComparison(
            artifact=name,
            device="Google Pixel 9 Pro XL",
            runtime="ai-edge-litert",
            threads=threads,
            before=side("A", 501.17 + threads),
            after=side("B", 523.45 + threads),
            ratio=1.0441 + index,
            ratio_interval=(1.0123 + index, 1.0789 + index),
            verdict="slower" if index else "no difference shown",
            note="few launches: the interval is rather too narrow",
        )
        for index, name in enumerate(ARTIFACTS)
        for threads in (1, 2)
    )
    scores = tuple(
        AccuracyComparison(
            artifact=name, set_name="Urban100", runtime="ai-edge-litert", before_db=26.1234, after_db=26.2345
        )
        for name in ARTIFACTS
    )
    print_compare(
        CompareReport(
            a="2026-01-01 to 2026-01-31",
            b="2026-02-01 to 2026-02-28",
            tolerance_percent=3,
            confidence=0.95,
            latency=rows,
            accuracy=scores,
            unmatched=(),
            measurements=(),
        )
    )


def _lint() -> None:
    place = Place(index=123, kind="STRIDED_SLICE", name="blocks.11.attention.qkv", shape=(1, 128, 128, 192))
    findings = tuple(
        Finding(rule=OUTSIDE, accelerator="gpu", detail=f"{count} STRIDED_SLICE", places=(place,) * 5)
        for count in (44, 45)
    )
    ops = tuple(OpForecast(index=index, kind="CONV_2D", name="", state="on", macs=1) for index in range(431))
    rows = tuple(
        Forecast(
            **{key: value for key, value in _made(name).items() if key in ("artifact_path", "scheme", "target")},
            accelerator=title,
            title=title,
            ops=ops,
            macs=431,
            macs_share=0.97654,
            partitions=44,
            findings=findings,
            caveat=f"{title} as it is on the phones of 2026; drivers differ between phones, and nobody can say how",
        )
        for name in ARTIFACTS
        for title in ("Apple Neural Engine", "GPU (LiteRT)")
    )
    print_lint(LintReport(forecasts=rows))


def _plan() -> None:
    options = tuple(
        Option(
            cost=TileCost(
                name=name,
                scale=4,
                tile=(128, 128),
                overlap=16,
                threads=threads,
                device="host: AMD EPYC 7B13 64-Core Processor",
                tile_ms=501.17,
                tile_ms_quartiles=(498.1, 520.2),
                model_bytes=1,
            ),
            tiles=12345 + index,
            computed_share=1.2345 + index,
            seconds=12345.6 + 60 * index,
            seconds_quartiles=(11234.5 + 60 * index, 13456.7 + 60 * index),
            pictures_bytes=1_000_000,
            memory_bytes=12_345_000_000 + index * 10**9,
            fits=True,
        )
        for index, name in enumerate(ARTIFACTS)
        for threads in (1, 2)
    )
    print_plan(TilePlan(height=3000, width=4000, ram_bytes=None, options=options))


def _adb() -> None:
    device = DeviceInfo(
        serial="R5CT1234567",
        manufacturer="Google",
        model="Pixel 9 Pro XL",
        soc="Tensor G4",
        android_version="15",
        sdk="35",
        build="AP3A",
        abis=("arm64-v8a",),
        cores=(Core(index=0, max_khz=3_100_000),),
        emulator=None,
    )
    state = DeviceState(
        battery_percent=82,
        battery_c=30.1,
        charging=True,
        thermal_status="none",
        temperatures_c={},
        skin_c=33.25,
        low_power=False,
        governors=("schedutil", "walt"),
        current_khz=(None,),
    )
    rows = tuple(
        AdbRow(
            **_made(name),
            artifact_sha256="0" * 64,
            threads=4,
            backend="xnnpack",
            pinned=pinned,
            taskset_mask="f0" if pinned else None,
            runtime="tflite",
            runtime_version="2.3.0",
            timing=None if "coreml" in name else _sampled(501.17),
            delegation=DelegationSeen(delegate="XNNPACK", delegated_nodes=419, nodes=431, partitions=12),
            numerics=DeviceNumerics(psnr_db=62.123, max_difference=3, agrees=True),
            before=state,
            after=state,
            reason=NO_MAC if "coreml" in name else None,
        )
        for name in ARTIFACTS
        for pinned in (True, False)
    )
    print_adb(AdbReport(device=device, rows=rows))


def _sampled(median: float) -> SampledTiming:
    return SampledTiming(samples_ms=(median, median, 1.31 * median) * 4, warmup_runs=3, load_ms=1234.56)


def _apple() -> None:
    shares = {
        "Neural Engine": DeviceShare(operations=130, cost_percent=97.6, by_name={}),
        "CPU": DeviceShare(operations=3, cost_percent=2.4, by_name={}),
    }
    rows = tuple(
        AppleRow(
            **_made(name),
            artifact_sha256="0" * 64,
            compute_unit=unit,
            device="MacBook Pro",
            os="macOS 26.1",
            runtime="coreml",
            runtime_version="9.0",
            timing=_sampled(11.17),
            plan=ComputePlan(shares=shares),
            numerics=DeviceNumerics(psnr_db=62.123, max_difference=3, agrees=False),
        )
        for name in (ARTIFACTS[2], ARTIFACTS[2].replace("fp32", "w8a8"))
        for unit in ("ALL", "CPU_AND_NE")
    )
    print_apple(AppleReport(device="MacBook Pro", os="macOS 26.1", rows=rows))


def _browser() -> None:
    def timing(threads: int) -> BrowserTiming:
        return BrowserTiming(
            threads=threads,
            load_ms=1234.56,
            runtime_load_ms=99.0,
            first_ms=2345.67,
            warmup_runs=3,
            runs_per_sample=3,
            samples_ms=(501.17, 501.17, 1.32 * 501.17),
            clock_resolution_ms=0.1,
            runtime="LiteRT.js",
            runtime_version="2.3.0",
            runtime_build="wasm",
        )

    rows = tuple(
        BrowserRow(
            **_made(name),
            scale=4,
            overlap=16,
            file="model.tflite",
            configuration=Configuration(backend="wasm", threads=threads),
            runtime="LiteRT.js",
            runtime_version="2.3.0",
            timing=timing(threads) if "tflite" in name else None,
            numerics=BrowserNumerics(reference="host", agrees=True, summary="at most 2 levels from the computer's own"),
            reason=None if "tflite" in name else NO_MAC,
        )
        for name in ARTIFACTS
        for threads in (1, 2)
    )
    device = BrowserDevice(title="Chrome on a phone", kind="phone", browser="Chrome", address="192.168.1.2", facts={})
    print_browser(BrowserReport(device=device, rows=rows, ended="complete"))


def _layers() -> None:
    layers = tuple(
        LayerCost(
            name=f"body.blocks.{index}.{part}",
            kind=kind,
            kernel="",
            macs=123_456_789,
            samples_ms=tuple(12.345 + index + step / 100 for step in range(12)),
        )
        for index, (part, kind) in enumerate(
            [
                ("distillation.refine.conv", "CONV_2D + RELU"),
                ("distillation.reduce.conv", "Fully Connected (NC, QS8, QC8W) GEMM"),
                ("attention.pool", "RESIZE_NEAREST_NEIGHBOR"),
            ]
        )
    )
    facts = _made(ARTIFACTS[0])
    print_layers(
        LayerProfile(**facts, threads=2, method=OPERATOR_PROFILE, layers=layers, total_samples_ms=(45.6,), macs=10**9)
    )


def _roofline() -> None:
    print_roofline(
        RooflineReport(
            rows=tuple(
                RooflineRow(
                    **_made(name),
                    threads=threads,
                    macs=1_234_567_890,
                    peak_macs=(10**9, 3 * 10**9),
                    round_ms=() if "coreml" in name else (501.17, 512.34),
                    round_peak_ms=() if "coreml" in name else ((10.0, 30.0), (10.0, 31.0)),
                    reason=NO_MAC if "coreml" in name else None,
                )
                for name in ARTIFACTS
                for threads in (1, 2)
            ),
            rounds=2,
        )
    )


def _sensitivity() -> None:
    def effect(error: float) -> Effect:
        return Effect(mse_levels2=error, drop_db=error / 10, drop_error_db=0.0123)

    def part(view: str, name: str, error: float) -> PartSensitivity:
        alone, others = effect(error), effect(1.5 - error)
        return PartSensitivity(view=view, name=name, weights=12, values=34, alone=alone, others=others)

    parts = (
        part(OP, "pixel shuffle and the addition of the enlarged picture", 0.1234),
        part(BLOCK, "body.blocks.0.distillation", 0.2345),
        part(BLOCK, "body.blocks.1.distillation", 0.3456),
    )
    latency = LatencyByPart(
        tile=(128, 128),
        threads=2,
        total_ms={"fp32": 501.171, "w8a8": 256.262},
        rows=(PartLatency(view=BLOCK, name="body.blocks.0.distillation", latency_ms={"fp32": 12.345, "w8a8": None}),),
    )
    print_sensitivity(
        SensitivityReport(
            model="idsa_net_mobile",
            scale=4,
            checkpoint_sha256="0" * 64,
            calibration_sha256="0" * 64,
            ranges="trained",
            data="Set14",
            sensitivity=Sensitivity(
                model="idsa_net_mobile",
                scheme="w8a8",
                images=24,
                float_psnr_y_db=28.4,
                whole=effect(1.2345),
                network_drop_db=0.1239,
                parts=parts,
                seconds=123.0,
            ),
            variants=(
                Variant(
                    name="w8a8, sigmoid in float",
                    float_kinds=("sigmoid",),
                    rounded={"weights": 41, "conv": 39, "add": 17, "mul": 12, "concatenation": 8, "pixel_shuffle": 1},
                    effect=effect(1.3456),
                ),
            ),
            latency=latency,
        )
    )


def _agreement() -> None:
    names = ("float", "fake-quant", "QDQ", "TFLite", "ExecuTorch", "Core ML, evaluated")
    tile = SampleTile(kind="spread", set_name="Set14", image="woman", top=0, left=0, detail=1.0, lr=_PIXELS, hr=None)
    pairs = tuple(
        Agreement(
            first=first,
            second=second,
            max_levels=123,
            mean_levels=0.12345,
            share_equal=0.9876543,
            share_over_1=0.0123456,
            share_over_2=0.0012345,
            psnr_db=56.789,
            worst_tile=0,
            max_levels_by_tile=(112,),
            mean_levels_by_tile=(0.1,),
        )
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    )
    participants = [Participant(name=name, runtime="torch", runner="PyTorch 2.13", psnr_y_db=28.123) for name in names]
    absent = Participant(name="Core ML", runtime="coreml", reason=NO_MAC)
    print_agreement(
        AgreementMatrix(
            model="idsa_net_mobile",
            scale=4,
            scheme="w8a8",
            tile=(128, 128),
            checkpoint_sha256="0" * 64,
            tiles=(tile,),
            participants=(*participants, absent),
            pairs=pairs,
        )
    )


def _arm() -> None:
    print_arm(
        [
            ArmCheck(
                artifact_name=name,
                file=file,
                cpu="cortex-a710",
                machine=("aarch64", "x86_64"),
                tiles=2,
                identical=False,
                max_difference=1.234e-7,
                max_levels=123,
                allowed_levels=1,
            )
            for name in ARTIFACTS
            for file in ("model_float32_inputs.tflite", "model.tflite")
        ]
    )


def _diff() -> None:
    layers = tuple(
        LayerChange(
            before=f"body.blocks.{index}.distillation.refine.conv",
            after=f"body.blocks.{index}.distillation.refine.conv.fused",
            max_difference=0.1234,
            largest_weight=1.2345,
            bias_difference=0.0567,
            scale_ratio=1.2345,
            scales_changed=12,
            scale_count=48,
            reordered=True,
        )
        for index in range(3)
    )
    scales = ScaleChange(counts=(431, 429), compared=429, changed=123, largest_ratio=1.2345, where="body.blocks.0")
    outputs = tuple(
        OutputChange(
            set_name="Urban100",
            image=image,
            psnr_y_db=(28.1234, 28.2345),
            between_db=45.67,
            max_levels=123,
            mean_levels=0.1234,
            differing_percent=12.34,
        )
        for image in ("woman_with_hat", "woman_with_umbrella")
    )
    folder = Path("/photos/out")
    print_diff(
        ArtifactDiff(
            before=folder / ARTIFACTS[0],
            after=folder / ARTIFACTS[1],
            same_computation=False,
            same_bytes=False,
            fields=(Change(name="checkpoint_sha256", before="a1" * 32, after="b2" * 32),),
            tools=(Change(name="ai-edge-litert", before="2.3.0.dev20260101", after="2.3.0.dev20260202"),),
            files=(Change(name="model_float32_inputs.tflite", before=1_234_567, after=None),),
            size_bytes=(2_345_678, 3_456_789),
            delegation=(),
            graph=GraphChange(
                ops=(Change(name="RESIZE_NEAREST_NEIGHBOR", before=123, after=124),),
                weight_bytes=(987_654, 876_543),
                activations=scales,
                weights=scales,
                layers=layers,
                unmatched=(("body.blocks.4.attention.pool", "body.blocks.5.attention.pool"), ()),
            ),
            graph_reason="",
            outputs=outputs,
            outputs_reason="",
            canonical_sha256=(None, None),
            summaries=(None, None),
        )
    )


def _colour_card() -> None:
    measures = tuple(
        ChartMeasure(
            name=name,
            kind="ramp",
            shift_levels=(-12.34, 1.23, 0.12),
            max_difference_levels=123,
            mean_difference_levels=1.2,
            clipped_percent=12.3,
            distinct=245,
            float_distinct=256,
            longest_run_px=12,
            float_longest_run_px=8,
            reversals_percent=1.7,
            float_reversals_percent=0.0,
            ripple_levels=13,
            float_ripple_levels=14,
            spread_levels=15,
            float_spread_levels=16,
            overshoot_levels=117,
            float_overshoot_levels=118,
        )
        for name in ("shallow ramp across, blue", "shallow ramp across, red")
    )
    facts = _made(ARTIFACTS[0])
    facts["artifact"] = facts.pop("artifact_path").name
    print_colour_card(
        ColourCard(**facts, scale=4, runtime="tflite", limits=ColourLimits(), measures=measures, pictures=())
    )


def _seams() -> None:
    def row(overlap: int, most: int) -> SeamRow:
        difference = SeamDifference(
            picture="woman",
            photo=True,
            overlap=overlap,
            seam_max_levels=most,
            seam_mean_levels=0.1234,
            seam_pixels_over=1,
            elsewhere_max_levels=112,
            elsewhere_mean_levels=0.0123,
        )
        worst = WorstSeam(
            picture="woman", overlap=overlap, max_levels=most, top=0, left=0, tiled=_PIXELS, reference=_PIXELS
        )
        return SeamRow(overlap=overlap, cost_factor=1 + overlap / 100, differences=(difference,), worst=worst)

    layers = tuple(
        LayerReach(name=f"body.blocks.{index}.conv", growth_px=4, reach_px=4 * index + 4, moves_with_phase=False)
        for index in range(4)
    )
    facts = _made(ARTIFACTS[0])
    facts["artifact"] = facts.pop("artifact_path").name
    print_seams(
        SeamCertificate(
            **facts,
            scale=4,
            runtime="tflite",
            overlap=32,
            reach=Reach(reach_px=16, layers=layers),
            declared_context=16,
            band=4,
            rows=(row(0, 201), row(8, 102), row(16, 13), row(32, 1)),
            reference_overlap=32,
            reference_exact=True,
            disagreement_levels=0,
            cross_check=(),
        )
    )


def _waterfall() -> None:
    worst = WorstTile(
        set_name="Set14",
        image="woman_with_hat",
        top=1024,
        left=2048,
        height=8,
        width=8,
        squared_error_increase=1.0,
        float_psnr_y_db=28.9,
        artifact_psnr_y_db=27.1,
        max_levels=12,
        lr=_PIXELS,
        hr=_PIXELS,
        float_sr=_PIXELS,
        artifact_sr=_PIXELS,
    )
    rows = tuple(
        WaterfallRow(
            **_made(name),
            scale=4,
            runtime=_made(name)["target"],
            overlap=16,
            float_whole=_score(28.4321),
            float_tiled=_score(28.4019),
            fake_quant=None if "fp32" in name else _score(28.3123),
            artifact=_score(28.1234 + index / 100),
            set_name="Set14",
            worst_tile=worst,
        )
        for index, name in enumerate(ARTIFACTS)
    )
    print_waterfall(WaterfallReport(rows=rows))


def _gate() -> None:
    checks = [
        GateCheck(
            name="largest difference along seams",
            artifact=name,
            set_name="Urban100",
            status=status,
            message=f"expected at most 1 level along seams at overlap 16, got 112; export {name} with --overlap 32",
            measured=112.3456 + index,
            limit=12.5,
            unit="levels",
        )
        for index, name in enumerate(ARTIFACTS)
        for status in ("failed", "passed")
    ]
    print_gate(checks)


# What prints it, and numbers that must stand in it as they are here.
REPORTS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "export": (_export, ("1.23 MB", "1.25 MB", "123", "56")),
    "verify": (_verify, ("28.432", "28.402", "0.8123", "+0.030", "(28.12 dB)", "(28.15 dB)")),
    "profile": (_profile, ("1234.6", "2345.7", "511.17", "81.79 ! 16%", "1234 MB")),
    "history": (_history, ("501.17 ms ! 31% ~", "501.17 to 656.53", "26.123 dB", "2026-01-10")),
    "compare": (_compare, ("502.17", "[501.06, 503.28]", "1.044", "[1.012, 1.079]", "+0.111", "26.123")),
    "lint": (_lint, ("431 of 431", "97.7%", "#123", "[1, 128, 128, 192]")),
    "plan": (_plan, ("12345", "1.23x", "205.8 min", "187.2 min to 224.3 min", "12345 MB")),
    "profile on a phone": (_adb, ("1234.56", "501.17", "552.96", "155.36 !", "33.2 → 33.2", "62.1 dB")),
    "profile on a Mac": (_apple, ("1234.56", "11.17", "14.63", "(98% of cost)")),
    "profile in a browser": (_browser, ("1234.6", "2345.7", "501.17", "80.19 ! 16%", "3 of 3")),
    "layers": (_layers, ("123.5 M", "12.400", "12.365 – 12.435", "27.2%", "10.0")),
    "roofline": (_roofline, ("1.235", "506.75", "2.4", "97.6", "2% … 3%")),
    "sensitivity": (_sensitivity, ("0.1234", "+0.012 ± 0.012", "28.0%", "41 weights", "501.171", "12.345")),
    "agreement": (_agreement, ("123", "112", "0.12345", "98.7654%", "1.2346%", "0.1234%", "56.79", "28.123")),
    "arm": (_arm, ("1.23e-07", "123")),
    "diff": (_diff, ("2.35 MB", "3.46 MB", "987.7 kB", "10.00%", "×1.2345", "28.123", "45.7", "12.34%")),
    "colour card": (_colour_card, ("-12.34", "+1.23", "245 (256)", "12 (8)", "117 (118)", "12.3%")),
    "seams": (_seams, ("x1.32", "201", "0.1234", "112", "0.0123")),
    "waterfall": (_waterfall, ("28.432", "28.312", "+0.309", "+0.090", "(+0.309)", "1024,2048", "(+1.800)")),
    "gate": (_gate, ("112.346 levels", "12.5 levels")),
}
