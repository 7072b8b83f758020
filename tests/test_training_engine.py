"""Training steps: forms of convolutions, fallbacks of a GPU that are told and do not end the run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_sr.errors import ConfigError
from edge_sr.images import write_image
from edge_sr.networks import create_network
from edge_sr.networks.forms import DEPTHWISE_FORMS, depthwise, pointwise
from edge_sr.training import TrainConfig, config_from_mapping, open_pool
from edge_sr.training.crop_pool import CropPool, CropSampler
from edge_sr.training.engine import Engine, copied, copy_into, pool_device

RUN: dict[str, object] = {
    "model": "idsa_net",
    "scale": 2,
    "network": {"channels": 8, "blocks": 1, "distilled": 4, "purified": 4},
    "phases": [{"steps": 4, "batch": 8, "patch": 8}],
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> CropPool:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(2):
        write_image(folder / f"{seed}.png", np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return open_pool(folder, scale=2, cache=folder / "cache", hold_out=1)


def engine(said: list[str]) -> Engine:
    run: TrainConfig = config_from_mapping(RUN)
    network = create_network(run.model, run.scale, **run.network)
    return Engine(network, network, copy.deepcopy(network), run, said.append)


def gradients(module: nn.Conv2d, out: Tensor) -> list[Tensor]:
    # Weighted, so that no gradient is a constant.
    loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
    assert module.bias is not None
    return list(torch.autograd.grad(loss, [module.weight, module.bias]))


@pytest.mark.parametrize("form", DEPTHWISE_FORMS)
def test_every_form_of_a_depthwise_kernel_has_its_outputs_and_gradients(form: str) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 6, 7, padding=9, dilation=3, groups=6)
    x = torch.randn(2, 6, 24, 20).to(memory_format=torch.channels_last)
    out = depthwise(conv, x, form)
    torch.testing.assert_close(out, conv(x), rtol=0, atol=1e-5)
    for own, library in zip(gradients(conv, out), gradients(conv, conv(x)), strict=True):
        torch.testing.assert_close(own, library, rtol=1e-5, atol=1e-4)  # sums of 960 products in another order


def test_a_pointwise_product_has_the_outputs_and_gradients_of_the_convolution() -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(12, 5, 1)
    x = torch.randn(2, 12, 9, 7)
    out = pointwise(conv, x)
    torch.testing.assert_close(out, conv(x), rtol=0, atol=1e-6)
    for own, library in zip(gradients(conv, out), gradients(conv, conv(x)), strict=True):
        torch.testing.assert_close(own, library, rtol=1e-5, atol=1e-5)
    order = torch.randperm(12)
    other = nn.functional.conv2d(x, conv.weight[:, order], conv.bias)
    torch.testing.assert_close(pointwise(conv, x, conv.weight[:, order]), other, rtol=0, atol=1e-6)


def test_averaged_weights_follow_by_the_share_that_is_given(pool: CropPool) -> None:
    own = engine([])
    before = copied(own.state())
    sampler = pool.sampler(8)
    own.run(sampler, [sampler.places(2, seed=1, step=0)], rates=[1e-3], renewals=[0.25], frozen=False)
    after = own.state()
    for name, start in before["average"].items():
        expected = start + 0.25 * (after["network"][name] - start)
        torch.testing.assert_close(after["average"][name], expected)
    assert any(not torch.equal(after["network"][name], start) for name, start in before["network"].items())


def test_a_state_of_other_shapes_or_names_is_refused() -> None:
    own = engine([]).state()
    other = copied(own)
    other["network"].popitem()
    with pytest.raises(ValueError, match="entries, not"):
        copy_into(own, other)
    with pytest.raises(ValueError, match="a tensor is of shape"):
        copy_into({"a": torch.zeros(2)}, {"a": torch.zeros(3)})


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks the device itself does nothing, so that the way through the fallbacks runs on a CPU."""
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)


def test_a_batch_too_large_for_memory_is_halved_until_it_fits(
    pool: CropPool, pretend_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    own = engine(said)
    own.device = torch.device("cuda")

    def record(sampler: CropSampler, batch: int, frozen: bool) -> None:
        own._graphs[(sampler.patch, batch, frozen)] = object()  # type: ignore[assignment]
        own.rate.fill_(1.0)
        own.device = torch.device("cpu")
        own._step(pool.sampler(8), sampler.places(1, seed=1, step=0))
        own.device = torch.device("cuda")
        if batch > 2 and frozen:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(own, "_record", record)
    before = copied(own.state())
    assert own.prepare(pool.sampler(8), 8) == 2
    assert said == [f"{n} crops of 8x8 do not fit into memory; {n // 2} instead" for n in (8, 4)]
    assert sorted(own._graphs) == [(8, 2, False), (8, 2, True)]  # none is left of batches that did not fit
    for name, value in before["network"].items():
        assert torch.equal(value, own.state()["network"][name]), name
    monkeypatch.setattr(own, "_record", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(ConfigError, match="expected memory for a crop of 8x8"):
        own.prepare(pool.sampler(8), 1)


def test_a_compiler_that_fails_leaves_the_blocks_as_they_are_and_the_weights_untouched(
    pool: CropPool, pretend_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    own = engine(said)
    own.device = torch.device("cuda")

    def no_compiler(*_: object) -> None:
        raise RuntimeError("no compiler\nhere")

    def warm_up(sampler: object, places: Tensor) -> None:
        own.rate.fill_(1.0)
        own.device = torch.device("cpu")
        own._step(pool.sampler(8), places)
        own.device = torch.device("cuda")

    own._compiled = True
    for block in own.network.get_submodule("blocks").children():
        block._compiled_call_impl = no_compiler
    monkeypatch.setattr(own, "_warm_up", warm_up)
    before = copied(own.state())
    own.prepare(pool.sampler(8), 2)
    assert said[0] == "compiling failed (RuntimeError: no compiler here); the blocks stay as they are"
    assert said[1].startswith("ready for 2 crops of 8x8, statistics free, in ")
    assert said[1].endswith("(not compiled, no graph)")
    for name, value in before["network"].items():
        assert torch.equal(value, own.state()["network"][name]), name


def test_photos_that_would_crowd_a_gpu_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 12 * 2**30))
    gpu = torch.device("cuda")
    assert pool_device(4 * 2**30, gpu, said.append) == gpu
    assert not said
    assert pool_device(5 * 2**30, gpu, said.append) == torch.device("cpu")
    assert said == ["5.0 GiB of photos are too many for 10.0 GiB of memory; the CPU cuts crops"]
    assert pool_device(5 * 2**30, torch.device("cpu"), said.append) == torch.device("cpu")
