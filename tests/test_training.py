"""Float training: data order, resumption, optimizer, schedule, and what a cut run leaves behind."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sr.checkpoints import load_checkpoint
from edge_sr.errors import CheckpointError, ConfigError, DataError
from edge_sr.images import write_image
from edge_sr.training import Phase, TrainConfig, Trainer, config_from_mapping, load_config, open_pool, train
from edge_sr.training.config import CONFIGS_DIR
from edge_sr.training.crop_pool import CropPool, Crops
from edge_sr.training.distributed import Processes
from edge_sr.training.loop import LOG, SNAPSHOT, learning_rate_factor, uses_bf16
from edge_sr.training.muon import Muon, orthogonalised, split_parameters
from edge_sr.training.packing import choose_held_out
from edge_sr.training.prefetch import Prefetch

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


def test_tiles_of_one_photo_are_held_out_together() -> None:
    names = [f"photo{i}_r{r}c0" for i in range(10) for r in range(3)]
    held_out = choose_held_out(names, 4)
    assert len(held_out) == 4
    assert all(not name.endswith("c0") for name in held_out)
    # Adding photos never brings back one that was held out before unless a lower hash pushes it out.
    more = choose_held_out([*names, "another"], 4)
    assert len(held_out & more) >= 3


def test_crops_show_the_same_place_in_lr_and_hr(pool: CropPool) -> None:
    batch = pool.sampler(12).batch(4, seed=3, step=5)
    assert batch.lr.shape == (4, 3, 12, 12)
    assert batch.hr.shape == (4, 3, 24, 24)
    # The photos are made of flat 6x6 squares: away from edges an LR pixel is the mean of its 2x2 HR pixels.
    means = torch.nn.functional.avg_pool2d(batch.hr, 2)
    agree = ((means - batch.lr).abs() < 0.02).float().mean().item()
    assert agree > 0.3  # a crop of another place, or another turn, agrees on about 1% of the pixels
    turned = ((means.rot90(1, (2, 3)) - batch.lr).abs() < 0.02).float().mean().item()
    assert turned < agree / 2


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
    assert not held & {image.name for image in pool.sampler(12).images}


def test_a_packed_pool_can_be_given_as_data(pool: CropPool, tmp_path: Path) -> None:
    assert open_pool(pool.folder, scale=2, cache=tmp_path).sha256 == pool.sha256
    with pytest.raises(DataError, match="scale 3"):
        open_pool(pool.folder, scale=3, cache=tmp_path)


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
    assert [line["step"] for line in lines] == [10, 20]


def test_an_interrupt_keeps_every_step_done(pool: CropPool, tmp_path: Path) -> None:
    def interrupt(progress: object) -> None:
        if getattr(progress, "step", 0) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(config(), pool, tmp_path).run(interrupt)
    assert Trainer(config(), pool, tmp_path).step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", SNAPSHOT]


def test_a_run_that_diverged_leaves_its_last_good_snapshot(pool: CropPool, tmp_path: Path) -> None:
    Trainer(config(), pool, tmp_path).run(stop_at=1)
    trainer = Trainer(config(), pool, tmp_path)
    good = (tmp_path / SNAPSHOT).read_bytes()
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.nan)
    with pytest.raises(ConfigError, match="expected a finite loss"):
        trainer.run(lambda progress: None)
    assert (tmp_path / SNAPSHOT).read_bytes() == good
    assert Trainer(config(), pool, tmp_path).step == 1


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
    with pytest.raises(CheckpointError, match="expected a snapshot"):
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


def test_crops_come_in_the_order_of_steps_however_many_threads_cut_them() -> None:
    def make(step: int) -> Crops:
        time.sleep(0.002 * (step % 3))  # later steps are often ready first
        return Crops(lr=torch.tensor([step]), hr=torch.tensor([step]))

    with Prefetch(make, 5, 25, threads=4) as upcoming:
        assert [int(crops.lr) for crops in upcoming] == list(range(5, 25))


def test_an_error_while_cutting_reaches_the_loop() -> None:
    def make(step: int) -> Crops:
        raise DataError(f"step {step}")

    with Prefetch(make, 0, 3, threads=2) as upcoming, pytest.raises(DataError, match="step 0"):
        next(iter(upcoming))


def test_muon_orthogonalises() -> None:
    for shape in ((6, 20), (20, 6)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
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


def test_learning_rate_rises_linearly_then_follows_a_cosine() -> None:
    run = config(phases=[{"steps": 100, "batch": 1, "patch": 8}], warmup_steps=10, final_lr_ratio=0.1)
    assert learning_rate_factor(run, 0) == pytest.approx(0.1)
    assert learning_rate_factor(run, 50) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate_factor(run, 100) == pytest.approx(0.1)


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
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**change)


@pytest.mark.parametrize("path", sorted(CONFIGS_DIR.glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_configurations_load(path: Path) -> None:
    loaded = load_config(path)
    variants = "_(continue|finish|cpu|short(_no_[a-z]+|_image_statistics)?)$"
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
