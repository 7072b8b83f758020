"""Float training: data order, resumption, optimizer, schedule, and what a cut run leaves behind."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sr.checkpoints import load_checkpoint
from edge_sr.errors import CheckpointError, ConfigError, DataError
from edge_sr.images import write_image
from edge_sr.resize import make_lr
from edge_sr.training import (
    Phase,
    TrainConfig,
    Trainer,
    branch_cooldown,
    config_from_mapping,
    load_config,
    open_pool,
    train,
)
from edge_sr.training.config import CONFIGS_DIR
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.distributed import Processes
from edge_sr.training.engine import uses_bf16
from edge_sr.training.held_out import photo_of
from edge_sr.training.loop import LOG, NETWORK, SNAPSHOT
from edge_sr.training.muon import Muon, orthogonalised, split_parameters
from edge_sr.training.run_folder import RunLock
from edge_sr.training.schedule import Position

TINY = {"channels": 8, "blocks": 1, "distilled": 4}


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "model": "idsa_net_mobile",
        "scale": 2,
        "network": TINY,
        "phases": [{"steps": 12, "batch": 2, "patch": 12}, {"steps": 8, "batch": 1, "patch": 16}],
        "warmup_steps": 2,
        "hold_out": 1,
        "validate_every": 10,
    }
    return config_from_mapping({**values, **changes})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos; one of them comes as two tiles."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("one_r0c0", "one_r0c1", "two", "three"):
        coarse = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        write_image(folder / f"{name}.png", np.kron(coarse, np.ones((6, 6, 1), np.uint8)))
    return folder


@pytest.fixture(scope="module")
def pool(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CropPool:
    return open_pool(photos, scale=2, cache=tmp_path_factory.mktemp("cache"), hold_out=1)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_crop_begins_at_any_pixel_and_its_lr_side_is_that_of_its_surroundings(tmp_path: Path, scale: int) -> None:
    rng = np.random.default_rng(scale)
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", rng.integers(0, 256, (50, 61, 3), dtype=np.uint8))
    pool = open_pool(tmp_path, scale=scale, cache=tmp_path / "cache", hold_out=1)
    sampler, side, margin = pool.sampler(6, reduced=True), 6 * scale, 2 * scale
    photos = {
        image.offset: np.pad(pool.pixels(image)[1], ((margin,) * 2, (margin,) * 2, (0, 0)), "symmetric")
        for image in pool.train_images
    }
    places = sampler.places(200, seed=3, step=5)
    assert set(places[:, 0].tolist()) == set(photos)
    whole = {image.offset for image in pool.train_images if image.reduction == 1}
    assert set(pool.sampler(6).places(200, seed=3, step=5)[:, 0].tolist()) == whole
    assert set((places[:, 3:5] % scale).flatten().tolist()) == set(range(scale))
    batch = sampler.cut(places)
    assert batch.lr.is_contiguous(memory_format=torch.channels_last)
    assert batch.hr.is_contiguous(memory_format=torch.channels_last)
    for lr, hr, (first, _, _, top, left, *turns) in zip(batch.lr, batch.hr, places.tolist(), strict=True):
        around = photos[first][top : top + side + 2 * margin, left : left + side + 2 * margin]
        around = around[:: -1 if turns[0] else 1, :: -1 if turns[1] else 1]
        around = around.transpose(1, 0, 2) if turns[2] else around
        inside = slice(margin, margin + side)
        assert np.array_equal(hr.permute(1, 2, 0).mul(255).round().byte(), around[inside, inside])
        assert np.array_equal(lr.permute(1, 2, 0).mul(255).round().byte(), make_lr(around, scale)[2:-2, 2:-2])


def test_data_order_depends_on_seed_and_step_not_on_the_number_of_processes(pool: CropPool) -> None:
    sampler = pool.sampler(12)
    first = sampler.batch(2, seed=1, step=7).lr
    assert torch.equal(first, pool.sampler(12).batch(2, seed=1, step=7).lr)
    for seed, step in ((2, 7), (1, 8)):
        assert not torch.equal(first, sampler.batch(2, seed=seed, step=step).lr)
    halves = [sampler.batch(2, seed=1, step=7, rank=rank, world_size=2).lr for rank in (0, 1)]
    assert torch.equal(first, torch.cat(halves))


def test_held_out_photos_are_never_cropped(pool: CropPool) -> None:
    held = {image.name for image in pool.held_out_images}
    assert held
    sampler = pool.sampler(12, reduced=True)
    places = torch.cat([sampler.places(16, seed=1, step=step) for step in range(40)])
    for image in pool.held_out_images:
        assert not (places[:, 0] == image.offset).any()
    names = {image.offset: image.name for image in pool.images}
    assert {photo_of(names[first]) for first in places[:, 0].tolist()}.isdisjoint(photo_of(name) for name in held)


def test_crops_are_turned_and_mirrored_in_all_eight_ways(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for name in ("a", "b"):  # of one crop's size, so that only turns are left to chance
        write_image(tmp_path / f"{name}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    pool = open_pool(tmp_path, scale=2, cache=tmp_path / "cache", hold_out=1)
    lr, hr = (pixels.astype(np.float32) / 255 for pixels in pool.pixels(pool.train_images[0]))
    batch = pool.sampler(8).batch(100, seed=1, step=0)
    seen = set()
    for crop_lr, crop_hr in zip(batch.lr, batch.hr, strict=True):
        for way in range(8):
            turn = [np.rot90(np.fliplr(image) if way >= 4 else image, way % 4) for image in (lr, hr)]
            if np.allclose(turn[1], crop_hr.permute(1, 2, 0)):
                # Rounded after each pass, of which the vertical one comes first: turned, a pixel may be a level off.
                assert np.allclose(turn[0], crop_lr.permute(1, 2, 0), atol=1.01 / 255)
                seen.add(way)
                break
        else:
            raise AssertionError("a crop is no turn of the photo")
    assert seen == set(range(8))


def test_larger_photos_are_cropped_more_often(tmp_path: Path) -> None:
    for name, width in (("a", 16), ("b", 64), ("c", 64)):
        write_image(tmp_path / f"{name}.png", np.full((16, width, 3), width, np.uint8))
    pool = open_pool(tmp_path, scale=2, cache=tmp_path / "cache", hold_out=1)
    widths = [image.width for image in pool.train_images if image.reduction == 1]
    assert sorted(widths) == [16, 64]
    wide = (pool.sampler(8).batch(1000, seed=1, step=0).hr.mean((1, 2, 3)) * 255 > 40).float().mean()
    assert wide == pytest.approx(0.8, abs=0.04)  # 64 of 80 columns; three standard deviations of 1,000 draws


def test_a_packed_pool_can_be_given_as_data(pool: CropPool, tmp_path: Path) -> None:
    assert open_pool(pool.folder, scale=2, cache=tmp_path).sha256 == pool.sha256
    with pytest.raises(DataError, match="scale 3"):
        open_pool(pool.folder, scale=3, cache=tmp_path)


def test_a_pool_whose_pixels_are_cut_or_gone_is_one_line(pool: CropPool, tmp_path: Path) -> None:
    folder = shutil.copytree(pool.folder, tmp_path / "pool")
    whole = (folder / "hr.bin").read_bytes()
    for damaged in (whole[:-1], whole[:100], b""):
        (folder / "hr.bin").write_bytes(damaged)
        with pytest.raises(DataError, match=r"expected \d+ whole pixels.* pack again") as caught:
            CropPool(folder)
        assert "\n" not in str(caught.value)
    (folder / "hr.bin").unlink()
    with pytest.raises(DataError, match="whole pixels"):
        CropPool(folder)


def test_missing_empty_and_too_small_folders_are_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="expected a folder"):
        open_pool(tmp_path / "none", scale=2, cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images"):
        open_pool(tmp_path / "empty", scale=2, cache=tmp_path)
    with pytest.raises(DataError, match="hold 3 out, got 3"):
        open_pool(photos, scale=2, cache=tmp_path, hold_out=3)
    assert not list(tmp_path.glob("pool_*"))


def test_a_run_cut_in_two_ends_with_the_weights_of_an_uncut_one(pool: CropPool, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path / "whole").run()
    Trainer(config(), pool, tmp_path / "cut").run(stop_at=9)
    result = Trainer(config(), pool, tmp_path / "cut").run()
    assert result.steps == 20
    whole = load_checkpoint(tmp_path / "whole" / "network.safetensors").network.state_dict()
    cut = load_checkpoint(tmp_path / "cut" / "network.safetensors").network.state_dict()
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name
    lines = [json.loads(line) for line in (tmp_path / "cut" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [9, 10, 20]  # a cut validates too


def test_an_interrupt_keeps_every_step_done_and_leaves_a_network(pool: CropPool, tmp_path: Path) -> None:
    said: list[str] = []

    def interrupt(progress: object) -> None:
        if getattr(progress, "step", 0) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(config(), pool, tmp_path, say=said.append).run(interrupt)
    assert said == [s for s in said if re.match(r"cut at step 5: \d+\.\d+ dB on held-out photos, ", s)] != []
    assert Trainer(config(), pool, tmp_path).step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", LOG, NETWORK, SNAPSHOT]


def test_a_cut_run_says_what_it_has_and_is_marked_unfinished(pool: CropPool, tmp_path: Path) -> None:
    result = Trainer(config(), pool, tmp_path).run(stop_at=3)
    assert (result.steps, result.finished) == (3, False)
    assert math.isfinite(result.psnr_y_db)
    assert math.isfinite(result.bicubic_psnr_y_db)
    assert load_checkpoint(result.checkpoint).metadata["finished"] is False
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()] == [3]
    assert load_checkpoint(Trainer(config(), pool, tmp_path).run().checkpoint).metadata["finished"] is True


def test_by_the_clock_a_run_is_finished_when_the_time_is_up(pool: CropPool, tmp_path: Path) -> None:
    result = Trainer(config(minutes=0.02), pool, tmp_path).run()
    assert result.finished
    assert result.steps > 1
    assert result.seconds >= 1.2


def test_a_loss_that_is_not_finite_goes_back_to_the_last_good_state_at_half_the_rate(
    pool: CropPool, tmp_path: Path
) -> None:
    said: list[str] = []
    trainer = Trainer(config(snapshot_seconds=0.0), pool, tmp_path, say=said.append)

    def poison(progress: object) -> None:
        if getattr(progress, "step", 0) == 4 and not said:
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(math.nan)

    assert trainer.run(poison).finished
    assert said == ["the loss became nan after step 4; on from step 4 at half the rate"]
    assert trainer.rate == 0.5
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


def test_a_run_that_diverges_at_any_rate_leaves_its_last_good_snapshot(
    pool: CropPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(config(), pool, tmp_path).run(stop_at=1)
    trainer = Trainer(config(), pool, tmp_path)
    monkeypatch.setattr(trainer.engine, "run", lambda *args, **more: math.nan)
    with pytest.raises(ConfigError, match="expected a finite loss"):
        trainer.run()
    assert Trainer(config(), pool, tmp_path).step == 1


def test_cooling_down_finishes_a_branch_and_the_run_itself_goes_on(
    pool: CropPool, photos: Path, tmp_path: Path
) -> None:
    endless = config(schedule="constant")
    Trainer(endless, pool, tmp_path / "whole").run(stop_at=8)
    run = tmp_path / "branched"
    Trainer(endless, pool, run).run(stop_at=5)
    branch, place = branch_cooldown(run, 4)
    Trainer(endless, pool, run).run(stop_at=6)  # the run goes on, beyond where the cool-down begins
    assert train(branch, pool.folder, place, stop_at=7).steps == 7
    assert branch_cooldown(run, 4) == (branch, place)  # cut, so it is taken up
    result = train(branch, pool.folder, place)
    assert (result.steps, result.finished) == (9, True)
    assert place.parent == run
    Trainer(endless, pool, run).run(stop_at=8)
    whole, other = (load_checkpoint(folder / NETWORK).network.state_dict() for folder in (tmp_path / "whole", run))
    assert all(torch.equal(value, other[name]) for name, value in whole.items())
    with pytest.raises(ConfigError, match="comes down by itself"):
        branch_cooldown(place, 4)


def test_a_damaged_configuration_and_a_cut_log_are_met_with_one_line(pool: CropPool, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path).run(stop_at=10)
    log = tmp_path / LOG
    log.write_text(log.read_text() + '{"step": 10, "lo')
    said: list[str] = []
    assert Trainer(config(), pool, tmp_path, say=said.append).step == 10
    assert said == [f"1 damaged lines of {log} are left out"]
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [10]
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(ConfigError, match="expected a JSON object"):
        Trainer(config(), pool, tmp_path)


def test_a_second_run_in_one_folder_is_refused_while_the_first_lives(pool: CropPool, tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(ConfigError, match=f"which process {os.getpid()} on"):
        train(config(), pool.folder, tmp_path)
    assert train(config(), pool.folder, tmp_path, stop_at=1).steps == 1


def test_a_snapshot_of_the_papers_network_travels_in_twelve_megabytes(photos: Path, tmp_path: Path) -> None:
    pool = open_pool(photos, scale=4, cache=tmp_path / "cache", hold_out=1)
    run = config(model="idsa_net", scale=4, network={}, phases=[{"steps": 1, "batch": 1, "patch": 8}])
    Trainer(run, pool, tmp_path / "run").run()
    assert (tmp_path / "run" / SNAPSHOT).stat().st_size <= 12e6


def test_what_ends_a_step_half_way_ends_the_run_at_its_last_whole_state(
    pool: CropPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(config(), pool, tmp_path / "whole").run()
    trainer = Trainer(config(), pool, tmp_path / "cut")
    muon = trainer.engine.optimizers[1]
    step = muon.step

    def broken(*arguments: object) -> object:
        if trainer.step == 4:
            raise KeyboardInterrupt  # Adam has taken its part of the step already
        return step(*arguments)

    monkeypatch.setattr(muon, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    Trainer(config(), pool, tmp_path / "cut").run()
    whole, cut = (load_checkpoint(tmp_path / name / NETWORK).network.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_an_interrupted_validation_is_measured_again_before_the_run_leaves(
    pool: CropPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config(), pool, tmp_path)
    measure, calls = trainer.held_out.psnr_y_db, []

    def once(*arguments: object) -> float:
        calls.append(trainer.step)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.held_out, "psnr_y_db", once)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert calls == [10, 10]
    assert math.isfinite(load_checkpoint(tmp_path / NETWORK).metadata["held_out_psnr_y_db"])


def test_a_run_never_goes_on_with_other_photos(pool: CropPool, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path / "run").run(stop_at=1)
    write_image(tmp_path / "one.png", np.zeros((64, 64, 3), np.uint8))
    write_image(tmp_path / "two.png", np.full((64, 64, 3), 9, np.uint8))
    other = open_pool(tmp_path, scale=2, cache=tmp_path / "cache", hold_out=1)
    with pytest.raises(ConfigError, match="give the same --data"):
        Trainer(config(), other, tmp_path / "run")


def test_a_run_by_the_clock_may_be_prolonged_and_changed_in_nothing_else(pool: CropPool, tmp_path: Path) -> None:
    first = Trainer(config(minutes=0.01), pool, tmp_path).run()
    longer = Trainer(config(minutes=0.02), pool, tmp_path).run()
    assert longer.steps > first.steps
    with pytest.raises(ConfigError, match="got another"):
        Trainer(config(minutes=0.02, lr=1e-3), pool, tmp_path)


def test_a_patch_larger_than_every_photo_is_refused_before_training(pool: CropPool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 99x99 LR pixels"):
        Trainer(
            config(phases=[{"steps": 1, "batch": 1, "patch": 8}, {"steps": 1, "batch": 1, "patch": 99}]), pool, tmp_path
        )


def test_training_lowers_the_loss_on_photos_of_flat_squares(pool: CropPool, tmp_path: Path) -> None:
    before = Trainer(config(), pool, tmp_path / "a")
    untrained = before.held_out.psnr_y_db(before.network, before.device)
    longer = config(phases=[{"steps": 60, "batch": 4, "patch": 12}], optimizer="adam")
    assert Trainer(longer, pool, tmp_path / "b").run().psnr_y_db > untrained + 0.2


def test_another_configuration_does_not_overwrite_a_run(pool: CropPool, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path).run(stop_at=1)
    with pytest.raises(ConfigError, match="another"):
        Trainer(config(seed=2), pool, tmp_path)


def test_a_damaged_snapshot_is_one_clear_error(pool: CropPool, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path).run(stop_at=1)
    path = tmp_path / SNAPSHOT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="expected a whole snapshot"):
        Trainer(config(), pool, tmp_path)


def test_weights_of_another_scale_start_all_but_the_tail(pool: CropPool, photos: Path, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path / "x2").run()
    source = tmp_path / "x2" / "network.safetensors"
    three = open_pool(photos, scale=3, cache=tmp_path, hold_out=1)
    started = Trainer(config(scale=3), three, tmp_path / "x3", init=source).network.state_dict()
    fresh = Trainer(config(scale=3), three, tmp_path / "fresh").network.state_dict()
    trained = load_checkpoint(source).network.state_dict()
    assert torch.equal(started["head.weight"], trained["head.weight"])
    assert torch.equal(started["up.weight"], fresh["up.weight"])


def test_muon_treats_kernels_of_one_shape_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(2)
    kernels = torch.randn(3, 4, 2, 3, 3, generator=generator)
    together = [torch.nn.Parameter(kernel.clone()) for kernel in kernels]
    apart = [torch.nn.Parameter(kernel.clone()) for kernel in kernels]
    gradients = torch.randn(kernels.shape, generator=generator)
    for pair in zip(together, apart, gradients, strict=True):
        pair[0].grad = pair[1].grad = pair[2].clone()
    Muon(together, lr=0.1).step()
    for parameter in apart:
        Muon([parameter], lr=0.1).step()
    for one, other in zip(together, apart, strict=True):
        # One batched product and three single ones round differently.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_muon_orthogonalises() -> None:
    for shape in ((6, 20), (20, 6)):
        random = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(orthogonalised(random))
        # The quintic's fixed band, per its authors: about 0.7 to 1.2.
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_minimises_a_quadratic() -> None:
    target = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([weight], lr=0.3)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.3 * (1 - step / 200)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.05


def test_muon_leaves_colours_tail_and_vectors_to_adam(pool: CropPool, tmp_path: Path) -> None:
    network = Trainer(config(), pool, tmp_path).network
    hidden, rest = split_parameters(network, network.get_submodule("up").parameters())
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    left = {names[id(parameter)] for parameter in rest}
    assert {"head.weight", "head.bias", "up.weight", "up.bias", "hybrid.spatial.weight"} <= left
    assert "blocks.0.first.weight" in {names[id(parameter)] for parameter in hidden}
    assert len(hidden) + len(rest) == len(names)


def position(run: TrainConfig, step: int = 0, seconds: float = 0.0) -> Position:
    return Position(config=run, step=step, seconds=seconds)


def test_learning_rate_rises_linearly_then_follows_a_cosine() -> None:
    run = config(phases=[{"steps": 100, "batch": 1, "patch": 8}], warmup_steps=10, final_lr_ratio=0.1)
    assert position(run, 0).rate_factor == pytest.approx(0.1)
    assert position(run, 50).rate_factor == pytest.approx(0.1 + 0.9 * 0.5)
    assert position(run, 100).rate_factor == pytest.approx(0.1)
    assert [position(run, step).is_end for step in (99, 100)] == [False, True]


def test_by_the_clock_schedule_and_phases_follow_the_time() -> None:
    run = config(minutes=2.0, final_lr_ratio=0.0)
    late = position(run, step=7, seconds=90)  # three quarters: step 15 of the 20 that the phases have
    assert (late.done, late.phase.patch, late.is_end) == (0.75, 16, False)
    assert late.rate_factor == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert position(run, step=7, seconds=0).phase.patch == 12
    assert position(run, step=7, seconds=120).is_end
    assert [position(run, seconds=seconds).validations for seconds in (0, 11, 13, 120)] == [0, 0, 1, 10]


def test_a_run_without_an_end_stays_at_its_rate_and_cools_down_on_demand() -> None:
    endless = config(schedule="constant", final_lr_ratio=0.0)
    far = position(endless, step=10**6, seconds=1e6)
    assert (far.rate_factor, far.is_end, far.phase.patch, far.last_step) == (1.0, False, 16, None)
    cooling = config(schedule="constant", final_lr_ratio=0.0, cooldown_start=100, cooldown_steps=40)
    factors = [position(cooling, step).rate_factor for step in (99, 100, 110, 140)]
    assert factors == pytest.approx([1.0, 1.0, 1 - math.sqrt(10 / 40), 0.0])
    assert [position(cooling, step).is_end for step in (139, 140)] == [False, True]


def test_another_number_of_steps_keeps_the_shares_of_the_phases() -> None:
    assert [phase.steps for phase in config().scaled_to(200).phases] == [120, 80]
    assert sum(phase.steps for phase in config().scaled_to(3).phases) == 3
    assert config().scaled_to(1).steps == 1


def test_precision_follows_the_setting() -> None:
    cpu = torch.device("cpu")
    assert uses_bf16("bf16", cpu)
    assert not uses_bf16("fp32", cpu)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "got stepz"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"loss": "l3"}, "loss must be one of l1, l2"),
        ({"phases": []}, "at least one phase"),
        ({"phases": [{"steps": 0, "batch": 1, "patch": 8}]}, "phase.steps"),
        ({"phases": [{"step": 1}]}, "expected model, scale and phases"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"ema_decay": 2.0}, "within 0..1"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant"),
        ({"cooldown_steps": 5}, "wants schedule constant"),
        ({"schedule": "constant", "minutes": 1.0}, "minutes set the length of a cosine"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**change)


@pytest.mark.parametrize("path", sorted(CONFIGS_DIR.glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_configurations_load(path: Path) -> None:
    loaded = load_config(path)
    variants = "_(long|finish|gpu|short(_no_[a-z]+|_image_statistics)?)$"
    assert re.sub(variants, "", path.stem) == f"{loaded.model}_x{loaded.scale}"
    assert loaded.phase_at(loaded.steps - 1) == loaded.phases[-1]
    assert loaded.phase_at(0) == loaded.phases[0]


def test_phase_follows_step() -> None:
    run = config()
    assert [run.phase_at(step).patch for step in (0, 11, 12, 19)] == [12, 12, 16, 16]
    assert run.phases[0] == Phase(steps=12, batch=2, patch=12)


def test_sample_photos_train_without_any_folder(tmp_path: Path) -> None:
    result = train(config(phases=[{"steps": 1, "batch": 1, "patch": 16}]), None, tmp_path)
    assert math.isfinite(result.psnr_y_db)
    metadata = load_checkpoint(result.checkpoint).metadata
    expected = {"steps": 1, "data": "scikit-image samples", "held_out_images": 1}
    assert {key: metadata[key] for key in expected} == expected


def test_two_processes_under_torchrun_train_what_one_does(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from edge_sr.training import Trainer, config_from_mapping, open_pool\n"
        "config = config_from_mapping(json.loads(sys.argv[1]))\n"
        "trainer = Trainer(config, open_pool(Path(sys.argv[2]), scale=2, cache=Path('.')), Path(sys.argv[3]))\n"
        "assert trainer.processes.world_size == 2\n"
        "trainer.run()\n"
    )
    pool = open_pool(photos, scale=2, cache=tmp_path / "cache", hold_out=1)
    # Statistics frozen from the start: each process would gather those of its own crops.
    run = config(phases=[{"steps": 3, "batch": 2, "patch": 12}], freeze_statistics_at=0.0, optimizer="adam")
    arguments = [str(script), json.dumps(run.to_json()), str(pool.folder), str(tmp_path / "two")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    Trainer(run, pool, tmp_path / "one").run()
    one, two = (load_checkpoint(tmp_path / name / "network.safetensors").network for name in ("one", "two"))
    fresh = Trainer(run, pool, tmp_path / "fresh").network
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        # The mean of two half-batch gradients rounds differently; Adam's step keeps the order of its size.
        assert torch.allclose(a, b, atol=2e-5), name
    assert any(not torch.allclose(a, b, atol=2e-4) for a, b in zip(one.parameters(), fresh.parameters(), strict=True))


def test_a_batch_that_processes_cannot_share_is_refused(
    pool: CropPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = Processes(rank=0, world_size=3, device=torch.device("cpu"))
    monkeypatch.setattr(Processes, "start", classmethod(lambda cls: three))
    with pytest.raises(ConfigError, match="3 processes share evenly, got 2, 1"):
        Trainer(config(), pool, tmp_path)
