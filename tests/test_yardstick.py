"""The yardstick, timing in turns, and the tables made of it: ratios to the yardstick, ablation, statistics."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from apps.progress import quiet
from apps.results import Timing
from converters.lowering import LoweringJob
from edge_sr.checkpoints import save_checkpoint
from edge_sr.errors import ConfigError
from edge_sr.networks import create_network
from edge_sr.training.config import CONFIGS_DIR, load_config
from scripts import measure_ablation, measure_statistics, measure_yardstick, render_docs, turns, yardstick
from scripts.measure_ablation import FULL, PARTS, check_equal, read_run, score_run, with_differences, write
from scripts.turns import Candidate, hd_macs, ratios, time_rounds
from scripts.yardstick import create_yardstick

MACHINE = {"cpu_model": "Some CPU", "logical_cores": 2, "system": "Linux"}


def timing(median_ms: float) -> Timing:
    return Timing(
        threads=1,
        load_ms=1.0,
        first_ms=1.0,
        warmup_runs=3,
        samples_ms=(median_ms - 1.0, median_ms, median_ms + 1.0),
        peak_rss_bytes=1,
        base_rss_bytes=1,
        runtime="litert",
        runtime_version="1",
    )


def artifact(target: str, scheme: str, path: Path = Path("x")) -> Any:
    delegation = SimpleNamespace(delegates=1, ops_outside={"PAD": 2})
    meta = SimpleNamespace(target=target, scheme=scheme, size_bytes=100, delegation=delegation, notes=())
    return SimpleNamespace(meta=meta, path=path)


# --------------------------------------------------------------------------------------------------------- yardstick
def test_yardstick_has_the_published_size_and_arithmetic() -> None:
    network = create_yardstick()
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(715_000, rel=0.01)
    assert hd_macs(network) / 1e9 == pytest.approx(40.9, abs=0.05)  # as the literature counts IMDN at x4
    assert network(torch.rand(2, 3, 8, 16)).shape == (2, 3, 32, 64)


def test_yardstick_is_the_same_from_the_same_seed_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = create_yardstick(1), create_yardstick(1)
    assert torch.equal(torch.rand(1), expected)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(first(x), second.deployed()(x))
    assert not torch.equal(first(x), create_yardstick(2)(x))


@pytest.mark.slow
def test_yardstick_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litert_torch")
    from converters.to_tflite import lower

    monkeypatch.setattr(yardstick, "BLOCKS", 2)
    job = LoweringJob(
        network=create_yardstick().deployed(),
        scheme="fp32",
        model="imdn_yardstick",
        scale=4,
        tile=(8, 8),
        work_dir=tmp_path,
    )
    delegation = lower(job).delegation
    assert (delegation.delegates, delegation.ops_outside) == (1, {})


# -------------------------------------------------------------------------------------------------------------- turns
def test_multiply_accumulates_are_those_of_a_720p_output() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, groups=3), nn.PixelShuffle(2))
    network.scale = 2  # type: ignore[assignment]
    assert hd_macs(network) == 360 * 640 * 12 * 9


def test_a_changed_weight_or_operator_changes_the_fingerprint() -> None:
    def fingerprint(build: Callable[[], nn.Module]) -> str:
        torch.manual_seed(0)
        return Candidate(name="x", deployed=build(), weights="none").fingerprint

    first = fingerprint(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    assert first == fingerprint(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    assert first != fingerprint(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.ReLU()))
    shifted = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    assert first != fingerprint(lambda: shifted)


def test_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    own, base = [timing(10.0), timing(40.0), timing(30.0)], [timing(20.0), timing(20.0), timing(100.0)]
    found = ratios(own, base)
    assert found.rounds == (0.5, 2.0, 0.3)
    assert (found.median, found.low, found.high) == (0.5, 0.3, 2.0)


def test_ratios_of_unequal_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 2 and 1"):
        ratios([timing(2.0), timing(2.0)], [timing(2.0)])
    with pytest.raises(ConfigError, match="got 0 and 0"):
        ratios([], [])


def test_every_round_times_all_and_the_order_turns_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def profile(paths: Sequence[Path], **_: Any) -> Any:
        seen.append(paths[0].name)
        return SimpleNamespace(rows=[SimpleNamespace(timing=timing(float(len(seen))), reason=None)])

    monkeypatch.setattr(turns, "profile_artifacts", profile)
    artifacts = {name: artifact("tflite", "fp32", Path(name)) for name in "abc"}
    taken = time_rounds(artifacts, rounds=2, runs=1, threads=1, progress=quiet)
    assert seen == ["a", "b", "c", "c", "b", "a"]
    assert [one.median_ms for one in taken["a"]] == [1.0, 6.0]


def test_an_artifact_that_cannot_be_timed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    row = SimpleNamespace(timing=None, reason="no runtime")
    monkeypatch.setattr(turns, "profile_artifacts", lambda *_, **__: SimpleNamespace(rows=[row]))
    with pytest.raises(ConfigError, match="latency of a, got none: no runtime"):
        time_rounds({"a": artifact("tflite", "fp32")}, rounds=1, runs=1, threads=1, progress=quiet)
    with pytest.raises(ConfigError, match="rounds must be at least 1"):
        time_rounds({}, rounds=0, runs=1, threads=1, progress=quiet)


# ---------------------------------------------------------------------------------------------------- yardstick table
def yardstick_result() -> dict[str, Any]:
    milliseconds = {
        ("imdn_yardstick", "fp32", "tflite"): (200.0, 240.0, 220.0),
        ("imdn_yardstick", "w8a8", "tflite"): (40.0, 40.0, 44.0),
        ("idsa_net", "fp32", "tflite"): (300.0, 300.0, 220.0),
        ("idsa_net", "w8a8", "tflite"): (100.0, 120.0, 88.0),
        ("imdn_yardstick", "fp32", "executorch"): (100.0, 100.0, 100.0),
        ("idsa_net", "fp32", "executorch"): (50.0, 60.0, 70.0),
    }
    taken = {key: [timing(value) for value in values] for key, values in milliseconds.items()}
    artifacts = {key: artifact(key[2], key[1]) for key in milliseconds}
    networks = [
        {"name": name, "weights": "untrained, seed 0", "deployed_parameters": 715_176, "deployed_macs_hd": 40.9e9}
        for name in ("imdn_yardstick", "idsa_net")
    ]
    return {
        "yardstick": "imdn_yardstick",
        "tile": [128, 128],
        "threads": 1,
        "rounds": 3,
        "runs_per_round": 10,
        "machine": MACHINE,
        "networks": networks,
        "rows": measure_yardstick.rows(artifacts, taken),
    }


def test_ratios_are_to_the_yardstick_of_the_same_runtime() -> None:
    rows = {(row["network"], row["scheme"], row["target"]): row for row in yardstick_result()["rows"]}
    assert rows["idsa_net", "fp32", "tflite"]["ratio"]["rounds"] == [1.5, 1.25, 1.0]
    assert rows["idsa_net", "w8a8", "tflite"]["ratio"]["rounds"] == [0.5, 0.5, 0.4]
    assert rows["idsa_net", "w8a8", "tflite"]["ratio_same_scheme"]["rounds"] == [2.5, 3.0, 2.0]
    assert rows["idsa_net", "fp32", "executorch"]["ratio"]["median"] == 0.6
    assert rows["imdn_yardstick", "fp32", "tflite"]["ratio"]["median"] == 1.0


def _render(name: str, facts: Mapping[str, Any]) -> str:
    text = f"<!-- table: {name} -->\n<!-- end: {name} -->"
    return render_docs.render(text, {"yardstick_x4": None, "ablation_x4": None, "statistics_x4": None, **facts})


@pytest.mark.parametrize("name", ["yardstick", "ablation", "statistics"])
def test_a_table_without_results_says_so(name: str) -> None:
    assert "Not measured yet." in _render(name, {})


def test_yardstick_table_shows_each_ratio_with_its_spread_and_what_lies_outside() -> None:
    text = _render("yardstick", {"yardstick_x4": yardstick_result()})
    row = "| `idsa_net` | tflite | fp32 | 300.0 ms | 1.25 (1.00–1.50) | 1.25 (1.00–1.50) | 1 | 2 |"
    assert row in text
    assert "715,176 parameters and 40.9 GMACs" in text


# ----------------------------------------------------------------------------------------------------------- ablation
@pytest.mark.parametrize(
    ("name", "part"), [("no_sharing", "share_attention"), ("no_lcipb", "lcipb"), ("no_inam", "inam")]
)
def test_an_ablations_training_differs_from_the_full_ones_in_one_part_only(name: str, part: str) -> None:
    full = load_config(CONFIGS_DIR / "idsa_net_x4_short.toml")
    without = load_config(CONFIGS_DIR / f"idsa_net_x4_short_{name}.toml")
    assert without == dataclasses.replace(full, network={part: False})
    create_network(without.model, without.scale, **without.network)  # its settings exist


def test_leaving_sharing_out_changes_the_matrices_only() -> None:
    full, without = (create_network("idsa_net", 4, blocks=2, share_attention=on) for on in (True, False))
    shapes = [
        {name: tensor.shape for name, tensor in network.state_dict().items() if "matrices" not in name}
        for network in (full, without)
    ]
    assert shapes[0] == shapes[1]


def write_run(folder: Path, *, photos: str = "a", step: int = 1200, psnr: float = 28.0, **changes: Any) -> Path:
    folder.mkdir()
    training = load_config(CONFIGS_DIR / "idsa_net_x4_short.toml").to_json() | changes
    (folder / "config.json").write_text(json.dumps(training))
    lines = [{"step": 250, "held_out_psnr_y_db": 20.0}, {"step": step, "held_out_psnr_y_db": psnr}]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    small = {"channels": 8, "blocks": 1, "distilled": 4, "attention_dim": 4, "hidden": 8, "purified": 4}
    network = create_network("idsa_net", 4, **small, **changes.get("network", {}))
    save_checkpoint(folder / "network.safetensors", network, {"pool_sha256": photos})
    return folder


def test_a_run_says_itself_what_it_leaves_out(tmp_path: Path) -> None:
    full = read_run(write_run(tmp_path / "x", psnr=28.5))
    without = read_run(write_run(tmp_path / "y", network={"lcipb": False}))
    assert (full.name, full.held_out_psnr_y_db, full.photos) == (FULL, 28.5, "a")
    assert (without.name, without.checkpoint) == ("lcipb", tmp_path / "y" / "network.safetensors")
    check_equal([without, full])


def test_a_row_counts_what_is_deployed_not_the_form_that_trains_fastest(tmp_path: Path) -> None:
    runs = (write_run(tmp_path / "x"), write_run(tmp_path / "y", network={"lcipb": False}))
    full, without = (score_run(read_run(run), [], lambda *_: None)["macs_hd"] for run in runs)
    # LCIPB of 8 channels and 4 purified ones: two 1x1 between them, 25 and 49 taps of 4 channels, 1x1; 180x320 pixels
    assert full - without == (2 * 8 * 4 + (25 + 49) * 4 + 4 * 4) * 180 * 320


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 1000}, "expected 1200 steps in .*got 1000"),
        ({"scale": 2}, "expected a run of idsa_net x4"),
        ({"network": {"lcipb": False, "inam": False}}, "at most one of"),
        ({"network": {"gate_channels": 8}}, "at most one of"),
    ],
)
def test_a_run_that_is_no_row_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_run(write_run(tmp_path / "run", **changes))


def test_a_run_older_than_a_setting_had_its_default(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old")
    training = json.loads((old / "config.json").read_text())
    assert training.pop("luma_weight") == 0.0
    (old / "config.json").write_text(json.dumps(training))
    today = write_run(tmp_path / "today", network={"inam": False})
    check_equal([read_run(old), read_run(today)])
    weighted = read_run(write_run(tmp_path / "weighted", network={"lcipb": False}, luma_weight=0.5))
    with pytest.raises(ConfigError, match="got other luma_weight"):
        check_equal([read_run(old), weighted])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected config\.json and log\.jsonl"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"lr": 1e-3}, "got other lr"), ({"photos": "b"}, "got other photos"), ({"network": {}}, "got full, full")],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    full = read_run(write_run(tmp_path / "full"))
    other = read_run(write_run(tmp_path / "other", **({"network": {"inam": False}} | changes)))
    with pytest.raises(ConfigError, match=message):
        check_equal([full, other])


def ablation_rows() -> list[dict[str, Any]]:
    def row(name: str, held_out: float, set5: float) -> dict[str, Any]:
        return {
            "name": name,
            "title": PARTS.get(name, FULL),
            "parameters": 752_114,
            "macs_hd": 45.1e9,
            "held_out_psnr_y_db": held_out,
            "sets": {"Set5": {"images": 5, "psnr_y_db": set5}},
        }

    return with_differences([row("inam", 28.0, 30.5), row(FULL, 28.25, 30.75)])


def test_rows_start_with_the_full_network_and_tell_what_is_lost() -> None:
    full, without = ablation_rows()
    assert (full["name"], without["name"]) == (FULL, "inam")
    assert (full["held_out_difference_db"], without["held_out_difference_db"]) == (0.0, -0.25)
    assert without["sets"]["Set5"]["difference_db"] == -0.25


def test_ablation_table_has_one_line_per_row() -> None:
    result: dict[str, Any] = {
        "training": {"phases": [{"steps": 1000}, {"steps": 200}]},
        "train_images": 1301,
        "accuracy": {"sets": ["Set5"], "rows": ablation_rows()},
    }
    assert "| full | 752,114 | 45.1 | 28.25 | 30.75 | – | – |" in _render("ablation", {"ablation_x4": result})
    timed = {name: {scheme: {"ratio": {"median": 1.25}} for scheme in ("fp32", "w8a8")} for name in ("inam", FULL)}
    result["latency"] = {"tile": [128, 128], "threads": 1, "rows": timed}
    text = _render("ablation", {"ablation_x4": result})
    assert "| full | 752,114 | 45.1 | 28.25 | 30.75 | 1.25 | 1.25 |" in text
    assert "| without INAM | 752,114 | 45.1 | 28.00 (-0.250) | 30.50 (-0.250) | 1.25 | 1.25 |" in text
    assert "after 1,200 steps on 1301 images" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"\|", line)) for line in table}) == 1
    assert len(table) == 4
    assert text.splitlines().index(table[-1]) - text.splitlines().index(table[0]) == 3  # no line between


def test_steps_of_the_same_runs_are_kept_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    write(path, "accuracy", {"scale": 4, "weights_sha256": {FULL: "1"}}, {"rows": 1})
    write(path, "latency", {"scale": 4, "weights_sha256": {FULL: "1"}}, {"rows": 2})
    both = json.loads(path.read_text(encoding="utf-8"))
    assert (both["accuracy"]["rows"], both["latency"]["rows"]) == (1, 2)
    write(path, "latency", {"scale": 4, "weights_sha256": {FULL: "2"}}, {"rows": 3})
    other = json.loads(path.read_text(encoding="utf-8"))
    assert "accuracy" not in other
    assert other["latency"]["rows"] == 3


@pytest.mark.parametrize("script", [measure_yardstick, measure_ablation, measure_statistics])
def test_results_lie_where_templates_find_them(script: Any) -> None:
    assert script.RESULT.parent == render_docs.RESULTS
    assert script.RESULT.stem in render_docs.RESULT_NAMES


# --------------------------------------------------------------------------------------------------------- statistics
def statistics_row(name: str, whole: float, tiled: float, quantized: float | None) -> dict[str, Any]:
    def scores(psnr: float) -> dict[str, Any]:
        spread = psnr - 30.5  # so that images lose differently
        return {"Set5": {"psnr_y_db": psnr, "by_image": {"baby": 32.0 + 0.75 * spread, "bird": 29.0 + 1.25 * spread}}}

    int8 = None if quantized is None else scores(quantized)
    return {
        "name": name,
        "title": measure_statistics.OPTIONS[name],
        "reason": "no such arithmetic" if quantized is None else None,
        "held_out_psnr_y_db": whole - 2.0,
        "held_out_quantized_psnr_y_db": None if quantized is None else quantized - 2.0,
        "whole": scores(whole),
        "tiles": [{"tile": [64, 64], "float": scores(tiled), "quantized": int8}],
        "exports": [
            {
                "scheme": "fp32",
                "tile": [64, 64],
                "reason": None,
                "delegates": 3,
                "ops_outside": {"MEAN": 2, "SUM": 1},
                "notes": ["one", "two"],
            },
            {"scheme": "w8a8", "tile": [64, 64], "reason": "refused"},
        ],
    }


def test_drops_of_statistics_add_up_and_the_best_float_is_shared() -> None:
    frozen, image, none = measure_statistics.with_drops(
        [
            statistics_row("frozen", 30.5, 30.5, 30.25),
            statistics_row("image", 31.0, 30.25, 30.0),
            statistics_row("image_frozen", 30.0, 30.0, None),
        ]
    )
    kept = dict(image["tiles"][0]["drops"]["Set5"])
    assert kept.pop("worst_image") == {"name": "bird", "total_db": 1.25}
    assert kept == {"tiling_db": 0.75, "quantization_db": 0.25, "total_db": 1.0, "from_best_db": 1.0}
    assert frozen["tiles"][0]["drops"]["Set5"]["from_best_db"] == 0.75
    assert none["tiles"][0]["drops"]["Set5"] == {
        "tiling_db": 0.0,
        "quantization_db": None,
        "total_db": None,
        "from_best_db": None,
        "worst_image": None,
    }


def test_statistics_table_says_what_has_no_figure_and_why() -> None:
    rows = measure_statistics.with_drops(
        [statistics_row("frozen", 30.5, 30.5, 30.25), statistics_row("image", 31.0, 30.25, None)]
    )
    result = {
        "training": {"phases": [{"steps": 1200}]},
        "train_images": 1301,
        "held_out_images": 24,
        "overlap": 16,
        "statistics_crops": {"crops": 32, "side": 64},
        "sets": ["Set5"],
        "rows": rows,
    }
    text = _render("statistics", {"statistics_x4": result})
    frozen, image = measure_statistics.OPTIONS["frozen"], measure_statistics.OPTIONS["image"]
    assert f"| {frozen} | Set5 | 30.50 | 64x64 | 0.000 | +0.250 | +0.250 | +0.312 | +0.750 |" in text
    assert f"| {image} | Set5 | 31.00 | 64x64 | +0.750 | – | – | – | – |" in text
    assert f"Statistics {image} cannot be quantized: no such arithmetic." in text
    assert f"| {image} | fp32 64x64 | 3 | 2 MEAN, 1 SUM | one; two |" in text
    assert f"| {image} | w8a8 64x64 | none: refused | | |" in text
    assert f"| {frozen} | 28.50 | 28.25 |" in text
    assert f"| {image} | 29.00 | – |" in text


@pytest.mark.parametrize(
    ("network", "name"), [({}, "frozen"), ({"statistics": "image"}, "image"), ({"statistics": "frozen"}, "frozen")]
)
def test_a_run_is_named_by_its_statistics(network: dict[str, Any], name: str) -> None:
    assert measure_statistics.statistics_of(network) == name
    with pytest.raises(ConfigError, match="inam"):
        measure_statistics.statistics_of({**network, "inam": False})


def test_statistics_are_compared_between_two_runs_alike_but_for_them(tmp_path: Path) -> None:
    frozen = read_run(write_run(tmp_path / "frozen"), measure_statistics.statistics_of)
    image = read_run(write_run(tmp_path / "image", network={"statistics": "image"}), measure_statistics.statistics_of)
    assert frozen.photos is not None
    measure_statistics.check_pair([image, frozen], frozen.photos)
    with pytest.raises(ConfigError, match="one run of frozen and one of image"):
        measure_statistics.check_pair([frozen, frozen], frozen.photos)
    with pytest.raises(ConfigError, match="--train-data"):
        measure_statistics.check_pair([image, frozen], "0" * 64)


@pytest.mark.parametrize("refused", [True, False])
def test_a_network_that_cannot_be_quantized_keeps_its_float_scores(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(method: str) -> Any:
        if refused:
            raise ConfigError(f"no {method} here")
        return SimpleNamespace(network="int8", held_out_psnr_y_db=27.5)

    workshop: Any = SimpleNamespace(
        deployed="float",
        made_of={"float_checkpoint_sha256": "a"},
        make=make,
        float_held_out_psnr_y_db=lambda: 28.0,
    )
    monkeypatch.setattr(measure_statistics, "score_sets", lambda network, sets, what, tile, progress: (network, tile))
    row = measure_statistics.measure_option("image", workshop, [], [64, 32], quiet)
    assert row["whole"] == ("float", None)
    assert [one["float"] for one in row["tiles"]] == [("float", (64, 64)), ("float", (32, 32))]
    assert (row["reason"], row["held_out_quantized_psnr_y_db"]) == (
        ("no search here", None) if refused else (None, 27.5)
    )
    expected = [None, None] if refused else [("int8", (64, 64)), ("int8", (32, 32))]
    assert [one["quantized"] for one in row["tiles"]] == expected
