"""Calibration, range search, QAT and quantized checkpoints on a network of one block."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sr.checkpoints import load_tensors, save_tensors
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.networks import create_network
from edge_sr.training.snapshots import previous_snapshot
from quantization import (
    Mode,
    QATConfig,
    QuantizedNetwork,
    calibrate,
    load_quantized,
    prepare,
    save_quantized,
    search_ranges,
    train_qat,
)
from quantization.qat import QATRecord, measure

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def deployed() -> nn.Module:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=2)
    nn.init.normal_(network.up.weight, std=0.02)
    return network.deployed()


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (1, 3, 16, 16), generator=generator) / 255 for _ in range(4)]


@pytest.fixture
def network(deployed: nn.Module, images: list[Tensor]) -> QuantizedNetwork:
    quantized = prepare(deployed, "w8a8")
    calibrate(quantized, images)
    return quantized


@pytest.fixture(scope="module")
def held_out(deployed: nn.Module) -> list[tuple[Image, Image]]:
    """The float network's own outputs as ground truth: then only quantization is measured."""
    generator = np.random.default_rng(2)
    pairs = []
    for _ in range(2):
        lr = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        x = torch.from_numpy(lr.transpose(2, 0, 1)[None] / np.float32(255))
        with torch.no_grad():
            sr = (deployed(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        pairs.append((lr, sr))
    return pairs


def _crops(seed: int = 0) -> Iterator[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.rand(2, 3, 12, 12, generator=generator), None


def _config(**changes: float) -> QATConfig:
    base = {"steps": 12, "learning_rate": 2e-4, "warmup_steps": 2, "validate_every": 4, "snapshot_every": 4}
    base |= {"scale_learning_rate": 0.0, "ema_decay": 0.0}
    return QATConfig(**{**base, **changes})  # type: ignore[arg-type]


def test_calibration_covers_the_brightest_batch_whatever_the_order(deployed: nn.Module, images: list[Tensor]) -> None:
    scales = []
    for batches in (images, images[::-1], images + images[:1] * 5):
        quantized = prepare(deployed, "w8a8")
        calibrate(quantized, batches)
        scales.append([grid.qparams() for _, grid in quantized.grids()])
    assert scales[0] == scales[1] == scales[2]


def test_calibrated_range_is_the_extreme_of_the_float_activation(deployed: nn.Module, images: list[Tensor]) -> None:
    quantized = prepare(deployed, "w8a8")
    calibrate(quantized, images)
    with torch.no_grad():
        outputs = torch.cat([deployed.head(image) for image in images])
    low, high = float(outputs.min().clamp(max=0)), float(outputs.max().clamp(min=0))
    scale, _ = dict(quantized.grids())["head_grid"].qparams()
    assert scale == pytest.approx((high - low) / 255, rel=1e-5)


def test_calibration_without_a_batch_is_refused(deployed: nn.Module) -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        calibrate(prepare(deployed, "w8a8"), [])


def test_calibration_reports_progress(deployed: nn.Module, images: list[Tensor]) -> None:
    seen: list[tuple[int, int]] = []
    calibrate(prepare(deployed, "w8a8"), images, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_range_search_never_makes_the_output_worse_and_undoes_a_bad_range(
    network: QuantizedNetwork, deployed: nn.Module, images: list[Tensor]
) -> None:
    with torch.no_grad():
        targets = [deployed(image).clamp(0, 1) for image in images]

    def error() -> float:
        with torch.no_grad():
            pairs = zip(images, targets, strict=True)
            return sum(float((network(image) - target).square().mean()) for image, target in pairs) / len(images)

    grid = dict(network.grids())["head_grid"]
    calibrated = float(grid.scale)
    with torch.no_grad():
        grid.scale.mul_(1.9)
    before = error()
    after = search_ranges(network, deployed, images)
    assert after <= before
    assert error() == pytest.approx(after, rel=1e-4)
    assert float(grid.scale) < calibrated * 1.9
    with pytest.raises(ConfigError, match="factors"):
        search_ranges(network, deployed, images, factors=(0.0,))


@pytest.mark.parametrize("rounds", [1, 2])
def test_range_search_that_computes_only_what_changes_finds_the_same(
    deployed: nn.Module, images: list[Tensor], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched() -> tuple[float, dict[str, float], int]:
        network = prepare(deployed, "w8a8")
        calibrate(network, images)
        heads: list[int] = []
        network.graph_module.get_submodule("head").register_forward_hook(lambda *_: heads.append(1))
        error = search_ranges(network, deployed, images, rounds=rounds)
        return error, {name: float(grid.scale) for name, grid in network.grids()}, len(heads)

    *kept, few = searched()
    monkeypatch.setattr("quantization.calibration._MOST_KEPT_BYTES", 0)
    *whole, many = searched()
    assert kept == whole
    assert few < many / 3


def test_measure_is_infinite_for_the_network_that_made_the_images(
    deployed: nn.Module, held_out: list[tuple[Image, Image]]
) -> None:
    assert measure(deployed, held_out) > 80  # round half up against half to even: at most a pixel or two


@pytest.mark.parametrize("scale_rate", [0.0, 1e-3])
@pytest.mark.parametrize("bf16", [False, True])
def test_training_brings_the_quantized_network_closer_to_its_teacher(
    network: QuantizedNetwork,
    deployed: nn.Module,
    held_out: list[tuple[Image, Image]],
    scale_rate: float,
    bf16: bool,
) -> None:
    with torch.no_grad():
        for _, grid in network.grids():
            if not grid.fixed:
                grid.scale.mul_(0.6)  # something to repair: ranges that clip
    start = measure(network, held_out)
    config = _config(steps=120, learning_rate=2e-3, scale_learning_rate=scale_rate, bf16=bf16, validate_every=10)
    result = train_qat(network, deployed, _crops(), config, held_out=held_out)
    assert result.start_psnr_y_db == start
    assert result.psnr_y_db > start + 0.5
    assert measure(network, held_out) == result.psnr_y_db
    assert result.best_step > 0
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_training_leaves_copying_weights_and_given_grids_alone(
    network: QuantizedNetwork, deployed: nn.Module, held_out: list[tuple[Image, Image]]
) -> None:
    config = _config(scale_learning_rate=1e-3)
    train_qat(network, deployed, _crops(), config, held_out=held_out)
    assert torch.equal(network.graph_module.base.weight, deployed.base.weight)
    for name in ("x_grid", "output_grid", "sigmoid_grid"):
        assert dict(network.grids())[name].qparams()[0] in (pytest.approx(1 / 255), pytest.approx(1 / 256))


def test_worse_states_are_not_kept(
    network: QuantizedNetwork, deployed: nn.Module, held_out: list[tuple[Image, Image]]
) -> None:
    start = {name: value.clone() for name, value in network.state_dict().items()}
    result = train_qat(network, deployed, _crops(), _config(learning_rate=0.5), held_out=held_out)
    assert (result.best_step, result.psnr_y_db) == (0, result.start_psnr_y_db)
    assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_interrupted_training_resumes_to_the_same_weights(
    deployed: nn.Module, images: list[Tensor], held_out: list[tuple[Image, Image]], tmp_path: Path, ema_decay: float
) -> None:
    def fresh() -> QuantizedNetwork:
        quantized = prepare(deployed, "w8a8")
        calibrate(quantized, images)
        return quantized

    def interrupt(record: QATRecord) -> None:
        if record.step == 6:
            raise KeyboardInterrupt

    config, snapshot = _config(scale_learning_rate=1e-4, ema_decay=ema_decay), tmp_path / "qat.pt"
    whole, broken = fresh(), fresh()
    expected = train_qat(whole, deployed, _crops(), config, held_out=held_out)
    with pytest.raises(KeyboardInterrupt):
        train_qat(broken, deployed, _crops(), config, held_out=held_out, snapshot=snapshot, progress=interrupt)
    assert snapshot.exists()
    resumed = fresh()
    result = train_qat(resumed, deployed, _crops(), config, held_out=held_out, snapshot=snapshot)
    assert result == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_in_a_process_group_of_one_is_training_alone(
    deployed: nn.Module, images: list[Tensor], held_out: list[tuple[Image, Image]], tmp_path: Path
) -> None:
    states = []
    for grouped in (False, True):
        quantized = prepare(deployed, "w8a8")
        calibrate(quantized, images)
        if grouped:
            dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
        try:
            train_qat(quantized, deployed, _crops(), _config(), held_out=held_out)
        finally:
            if grouped:
                dist.destroy_process_group()
        states.append(quantized.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_snapshot_that_is_damaged_or_of_another_configuration_is_refused(
    network: QuantizedNetwork, deployed: nn.Module, held_out: list[tuple[Image, Image]], tmp_path: Path
) -> None:
    snapshot = tmp_path / "qat.pt"

    def interrupt(record: QATRecord) -> None:
        if record.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_qat(
            network,
            deployed,
            _crops(),
            _config(snapshot_every=1),
            held_out=held_out,
            snapshot=snapshot,
            progress=interrupt,
        )
    with pytest.raises(CheckpointError, match=r"steps=12 \(now 13\)"):
        train_qat(
            network, deployed, _crops(), _config(steps=13, snapshot_every=1), held_out=held_out, snapshot=snapshot
        )
    for file in (snapshot, previous_snapshot(snapshot)):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"qat\.pt is damaged.*qat\.previous\.pt is damaged.*delete"):
        train_qat(network, deployed, _crops(), _config(snapshot_every=1), held_out=held_out, snapshot=snapshot)


def test_snapshot_of_other_crops_is_refused(
    network: QuantizedNetwork, deployed: nn.Module, held_out: list[tuple[Image, Image]], tmp_path: Path
) -> None:
    snapshot, config = tmp_path / "qat.pt", _config(snapshot_every=1)

    def train(source: dict[str, int], progress: Callable[[QATRecord], None] | None = None) -> None:
        train_qat(
            network, deployed, _crops(), config, held_out=held_out, source=source, snapshot=snapshot, progress=progress
        )

    def interrupt(record: QATRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train({"batch": 2, "seed": 0}, interrupt)
    for source, differing in (
        ({"batch": 2, "seed": 1}, r"seed=0 \(now 1\);"),
        ({"batch": 4, "seed": 0}, r"batch=2 \(now 4\);"),
        ({"batch": 2}, r"seed=0 \(now None\);"),
    ):
        with pytest.raises(CheckpointError, match=differing):
            train(source)
    assert snapshot.exists()
    train({"batch": 2, "seed": 0})


def test_training_against_hr_alone_learns_hr_and_not_the_teacher(
    network: QuantizedNetwork, deployed: nn.Module
) -> None:
    darkness = 200 / 255  # HR is darker than what the teacher gives
    lr = next(_crops())[0]
    pixels = torch.arange(16 * 16 * 3).reshape(16, 16, 3).mul(37).remainder(256).byte()
    with torch.no_grad():
        teachers = deployed(lr).clamp(0, 1)
        sr = deployed(pixels.permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    hr = (sr * 200).round().byte().permute(1, 2, 0).numpy()

    def crops() -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.repeat((lr, teachers * darkness))

    changes = {"steps": 40, "learning_rate": 1e-2, "validate_every": 10}
    held_out = [(pixels.numpy(), hr)]
    taught = copy.deepcopy(network)
    against_hr = _config(**changes, distillation_weight=0.0, hr_weight=1.0)
    alone = train_qat(network, deployed, crops(), against_hr, held_out=held_out)
    distilled = train_qat(taught, deployed, crops(), _config(**changes), held_out=held_out)
    assert alone.start_psnr_y_db == distilled.start_psnr_y_db
    assert alone.psnr_y_db > alone.start_psnr_y_db + 2
    assert distilled.psnr_y_db < alone.psnr_y_db - 2
    with torch.no_grad():
        ratio = float(network(lr).mean() / teachers.mean())
    assert ratio == pytest.approx(darkness, abs=0.05)


def test_a_configuration_that_learns_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="distillation_weight or hr_weight"):
        _config(distillation_weight=0.0)


def test_log_holds_one_json_line_per_measurement(
    network: QuantizedNetwork, deployed: nn.Module, held_out: list[tuple[Image, Image]], tmp_path: Path
) -> None:
    log = tmp_path / "qat.jsonl"
    train_qat(network, deployed, _crops(), _config(), held_out=held_out, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(line["psnr_y_db"] > 0 and line["loss"] >= 0 for line in lines)


def test_too_few_batches_missing_hr_and_no_held_out_images_are_refused(
    network: QuantizedNetwork, deployed: nn.Module, held_out: list[tuple[Image, Image]]
) -> None:
    with pytest.raises(ConfigError, match="expected 12 batches, got 1"):
        train_qat(network, deployed, [next(_crops())], _config(), held_out=held_out)
    with pytest.raises(ConfigError, match="hr_weight"):
        train_qat(network, deployed, _crops(), _config(hr_weight=1.0), held_out=held_out)
    with pytest.raises(ConfigError, match="held-out"):
        train_qat(network, deployed, _crops(), _config(), held_out=[])


@pytest.mark.parametrize("changes", [{"steps": 0}, {"learning_rate": -1.0}, {"ema_decay": 1.0}, {"final_ratio": 2.0}])
def test_configuration_out_of_bounds_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"expected {next(iter(changes))}"):
        _config(**changes)


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8_mixed"])
def test_saved_network_comes_back_with_the_same_output(
    deployed: nn.Module, images: list[Tensor], tmp_path: Path, scheme: str
) -> None:
    network = prepare(deployed, scheme)
    calibrate(network, images)
    path = tmp_path / "quantized.safetensors"
    save_quantized(path, network, {"steps": 7})
    loaded = load_quantized(path, expect_model="idsa_net_mobile")
    assert loaded.metadata == {"steps": 7, "scheme": scheme}
    assert loaded.qnet.scheme.name == scheme
    assert loaded.qnet.mode is Mode.QUANTIZE
    with torch.no_grad():
        assert torch.equal(loaded.qnet(images[0]), network(images[0]))


def test_checkpoints_that_do_not_fit_are_refused(network: QuantizedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "quantized.safetensors"
    with pytest.raises(CheckpointError):
        load_quantized(path)
    save_quantized(path, network, {})
    with pytest.raises(CheckpointError):
        load_quantized(path, expect_model="idsa_net")
    huge = load_tensors(path)
    save_tensors(
        tmp_path / "huge.safetensors",
        huge.tensors,
        model=huge.model,
        config={**huge.config, "blocks": 10**9},
        metadata=huge.metadata,
        kind="quantized",
    )
    with pytest.raises(CheckpointError, match="expected"):
        load_quantized(tmp_path / "huge.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError):
        load_quantized(path)
    anonymous = prepare(nn.Sequential(nn.Conv2d(3, 3, 1)), "w8a8")
    with pytest.raises(CheckpointError, match="model_name"):
        save_quantized(path, anonymous, {})
