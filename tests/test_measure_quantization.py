"""The comparison of quantization methods: networks made once, resumed results, and a choice the sets have no say in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edge_sr.checkpoints import save_checkpoint
from edge_sr.networks import create_network
from edge_sr.training import open_pool
from edge_sr.training.crop_pool import CropPool
from quantization.qat import measure
from scripts import measure_quantization, render_docs
from scripts.measure_quantization import Table, best_method, measure_methods, with_drops
from scripts.quantization_methods import METHODS, RECIPES, Recipe, Workshop

RECIPE = replace(RECIPES["idsa_net_mobile"].quick(), side=16, crops=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> CropPool:
    photos = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(3):
        pixels = generator.integers(0, 256, (10, 10, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    return open_pool(photos, scale=4, cache=photos.parent / "pools", hold_out=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("weights") / "network.safetensors", seed=0)


def _checkpoint(path: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(path, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {"steps": 3})
    return path


def _silent(*_: object) -> None:
    pass


def _workshop(checkpoint: Path, pool: CropPool, folder: Path, recipe: Recipe = RECIPE) -> Workshop:
    return Workshop(checkpoint, pool, recipe, folder, _silent)


@pytest.mark.parametrize("method", METHODS)
def test_a_made_network_comes_back_from_its_file(method: str, checkpoint: Path, pool: CropPool, tmp_path: Path) -> None:
    made = _workshop(checkpoint, pool, tmp_path).make(method)
    stamp = made.path.stat().st_mtime_ns
    workshop = _workshop(checkpoint, pool, tmp_path)
    again = workshop.make(method)
    assert again.path.stat().st_mtime_ns == stamp
    assert (again.seconds, again.held_out_psnr_y_db) == (made.seconds, made.held_out_psnr_y_db)
    assert measure(again.network, workshop._held_out) == made.held_out_psnr_y_db
    started_from = METHODS[method]
    if started_from is not None:
        assert again.seconds >= workshop.make(started_from).seconds


def test_other_weights_or_another_recipe_make_it_again(checkpoint: Path, pool: CropPool, tmp_path: Path) -> None:
    first = _workshop(checkpoint, pool, tmp_path).make("minmax")
    other = _workshop(_checkpoint(tmp_path / "other.safetensors", seed=1), pool, tmp_path).make("minmax")
    weights = [made.network.graph_module.head.weight for made in (first, other)]
    assert not torch.equal(*weights)
    recipe = replace(RECIPE, batches=2)
    _workshop(checkpoint, pool, tmp_path, recipe).make("minmax")
    stamp = first.path.stat().st_mtime_ns
    _workshop(checkpoint, pool, tmp_path, RECIPE).make("minmax")
    assert first.path.stat().st_mtime_ns != stamp


def test_training_against_hr_and_against_the_network_are_told_apart(
    checkpoint: Path, pool: CropPool, tmp_path: Path
) -> None:
    workshop = _workshop(checkpoint, pool, tmp_path)
    weights = {
        method: (config["distillation_weight"] > 0, config["hr_weight"] > 0)
        for method in ("qat_hr", "qat_distillation")
        for config in [workshop.make(method).facts["config"]]
    }
    assert weights == {"qat_hr": (False, True), "qat_distillation": (True, False)}


class _Scores:
    """Stands in for the runtimes: every set's PSNR is what a test says, and it takes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def score(self, network: Any, weights: Path, scheme: str, target: str) -> dict[str, Any]:
        self.asked.append((weights.stem, scheme, target))
        psnr_y_db = 30.0 if scheme == "fp32" else 29.75
        return {"size_bytes": 1000, "sets": {"Set5": {"images": 5, "psnr_y_db": psnr_y_db}}}


def test_finished_methods_are_not_measured_again(checkpoint: Path, pool: CropPool, tmp_path: Path) -> None:
    result, workshop = tmp_path / "quantization_x4.json", _workshop(checkpoint, pool, tmp_path / "work")
    facts = {"sets": ["Set5"], "bundled": True, "tile": [32, 32], "overlap": 16, **workshop.made_of}
    some = _Scores()
    table = Table(result, "idsa_net_mobile", facts)
    measure_methods(workshop, some, table, checkpoint, ["minmax"])  # type: ignore[arg-type]
    assert [name for name, *_ in some.asked] == [checkpoint.stem, "minmax"]
    first = _Scores()
    measure_methods(workshop, first, Table(result, "idsa_net_mobile", facts), checkpoint)  # type: ignore[arg-type]
    assert [(name, target) for name, scheme, target in first.asked if scheme == "w8a8"][:-1] == [
        (method, "tflite") for method in METHODS if method != "minmax"
    ]
    assert first.asked[-1][2] == "executorch"
    parts = json.loads(result.read_text())["networks"]["idsa_net_mobile"]["parts"]
    assert parts["search"]["sets"]["Set5"]["drop_db"] == 0.25
    assert parts["final"]["sets"]["Set5"]["drop_db"] == 0.25
    again = _Scores()
    measure_methods(workshop, again, Table(result, "idsa_net_mobile", facts), checkpoint)  # type: ignore[arg-type]
    assert again.asked == []
    assert not Table(result, "idsa_net_mobile", {**facts, "float_checkpoint_sha256": "other"}).parts
    assert not Table(result, "idsa_net", facts).parts


def test_one_network_leaves_the_other_in_the_file(tmp_path: Path) -> None:
    result = tmp_path / "quantization_x4.json"
    Table(result, "idsa_net", {"sets": ["Set5"]}).keep("float", {"psnr": 1})
    Table(result, "idsa_net_mobile", {"sets": ["Set5"]}).keep("float", {"psnr": 2})
    networks = json.loads(result.read_text())["networks"]
    assert {name: part["parts"]["float"]["psnr"] for name, part in networks.items()} == {
        "idsa_net": 1,
        "idsa_net_mobile": 2,
    }
    assert all(part["machine"] and part["versions"] and part["command"] for part in networks.values())


def test_the_best_method_is_the_best_on_held_out_photos() -> None:
    parts = {
        "float": {"held_out_psnr_y_db": 31.0},
        "minmax": {"held_out_psnr_y_db": 29.0, "sets": {"Set5": {"psnr_y_db": 33.0}}},
        "qat_hr": {"held_out_psnr_y_db": 30.0, "sets": {"Set5": {"psnr_y_db": 32.0}}},
    }
    assert best_method(parts) == "qat_hr"


def test_a_drop_is_what_is_missing_from_the_float_artifact() -> None:
    reference = {"sets": {"Set5": {"psnr_y_db": 31.5}, "Set14": {"psnr_y_db": 28.0}}}
    scored = {"size_bytes": 7, "sets": {"Set5": {"psnr_y_db": 31.25}, "Set14": {"psnr_y_db": 28.5}}}
    sets = with_drops(scored, reference)["sets"]
    assert {name: entry["drop_db"] for name, entry in sets.items()} == {"Set5": 0.25, "Set14": -0.5}


def test_every_method_has_a_row_in_the_table(checkpoint: Path, pool: CropPool, tmp_path: Path) -> None:
    workshop = _workshop(checkpoint, pool, tmp_path / "work")
    result = tmp_path / "quantization_x4.json"
    facts = {
        "sets": ["Set5"], "bundled": False, "tile": [32, 32], "overlap": 16, "held_out_images": 1,
        "trained": {"steps": 1200, "train_images": 77}, **workshop.made_of,
    }  # fmt: skip
    measure_methods(workshop, _Scores(), Table(result, "idsa_net", facts), checkpoint)  # type: ignore[arg-type]
    known = dict.fromkeys(render_docs.RESULT_NAMES)
    assert measure_quantization.RESULT.stem in known
    text = "<!-- table: quantization -->\n<!-- end: quantization -->"
    assert "Not measured yet." in render_docs.render(text, known)
    table = render_docs.render(text, {**known, "quantization_x4": json.loads(result.read_text())})
    assert "short trial of 1,200 steps on 77 images" in table
    assert table.count("| +0.250 |") == len(METHODS) + 1  # and the final choice in ExecuTorch
