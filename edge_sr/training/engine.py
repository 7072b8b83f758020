"""One training step as fast as the device allows: eager on CPUs and under DDP, one CUDA graph on a GPU.

On a GPU the pool's pixels, crops, gradients, optimizers and averaged weights all live there; a step is one replay of a
graph, and the CPU waits for it only when a loss is read. What goes wrong on the way there (no compiler, a capture that
fails, too little memory) costs speed or batch size, is said, and does not end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from edge_sr.errors import ConfigError, cause_of
from edge_sr.networks.forms import DEPTHWISE_FORMS
from edge_sr.networks.idsa_blocks import LCIPB
from edge_sr.training.config import TrainConfig
from edge_sr.training.crop_pool import CropSampler
from edge_sr.training.losses import pixel_loss
from edge_sr.training.muon import Muon, split_parameters

Say = Callable[[str], None]
# Share of a GPU's free memory that the photos may take.
_POOL_SHARE = 0.4
_WARM_UP_STEPS = 3


class Engine:
    """Takes optimizer steps of one network and keeps the averaged weights.

    Args:
        network: the training form, on its device; ``forward`` is it, or what wraps it (DDP).
        average: a copy of it that holds the averaged weights.
        config: loss, precision, optimizer.
        say: told of everything that falls back.
    """

    def __init__(
        self, network: nn.Module, forward: nn.Module, average: nn.Module, config: TrainConfig, say: Say
    ) -> None:
        self.network, self.forward, self.average, self.config, self.say = network, forward, average, config, say
        self.device = next(network.parameters()).device
        on_gpu = self.device.type == "cuda"
        self.rate = torch.zeros((), device=self.device)
        self.renewal = torch.zeros((), device=self.device)  # share of the current weights in the averaged ones
        self.loss_sum = torch.zeros((), device=self.device)
        self.optimizers = make_optimizers(network, config, self.rate)
        self._pairs = _floating_pairs(average, network)
        self._records = on_gpu and forward is network
        self._compiled = False
        self._graphs: dict[tuple[int, int, bool], _Recorded] = {}
        if on_gpu:
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
            if config.compile:
                self._compile()

    def state(self) -> dict[str, Any]:
        """Every tensor that a step changes, by reference."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict()["state"] for optimizer in self.optimizers],
        }

    def prepare(self, sampler: CropSampler, batch: int) -> int:
        """Get ready for steps of ``batch`` crops; returns the batch that fits into memory, which may be smaller.

        Raises:
            ConfigError: not even one crop fits.
        """
        while self.device.type == "cuda" and not self._recorded(sampler, batch):
            if batch == 1:
                raise ConfigError(
                    f"expected memory for a crop of {sampler.patch}x{sampler.patch}, got too little of it"
                )
            self.say(f"{batch} crops of {sampler.patch}x{sampler.patch} do not fit into memory; {batch // 2} instead")
            batch //= 2
        return batch

    def run(
        self,
        sampler: CropSampler,
        places: Sequence[Tensor],
        *,
        rates: Sequence[float],
        renewals: Sequence[float],
        frozen: bool,
    ) -> float:
        """Take a step for each batch of places (on the CPU).

        Args:
            sampler: cuts the crops.
            places: of one batch size, for which :meth:`prepare` was called.
            rates: learning rate of each step.
            renewals: for each step, the share that the current weights get in the averaged ones.
            frozen: normalisation statistics are constants.
        Returns:
            mean loss.
        """
        self._freeze(frozen)
        recorded = self._graphs.get((sampler.patch, len(places[0]), frozen))
        on_device = torch.stack(list(places)).to(sampler.device, non_blocking=True)
        self.loss_sum.zero_()
        for where, rate, renewal in zip(on_device, rates, renewals, strict=True):
            self.rate.fill_(rate)
            self.renewal.fill_(renewal)
            if recorded is None:
                self._step(sampler, where)
            else:
                recorded.places.copy_(where)
                recorded.graph.replay()
        return float(self.loss_sum) / len(places)

    def _step(self, sampler: CropSampler, places: Tensor) -> None:
        config = self.config
        batch = sampler.cut(places)
        lr, hr = batch.lr.to(self.device), batch.hr.to(self.device)
        with self._autocast():
            sr = self.forward(lr)
        loss = pixel_loss(sr.float(), hr, config.loss, luma_weight=config.luma_weight)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        averaged, current = self._pairs
        with torch.no_grad():
            change = torch._foreach_sub(current, averaged)
            torch._foreach_mul_(change, self.renewal)
            torch._foreach_add_(averaged, change)
            self.loss_sum += loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        if uses_bf16(self.config.precision, self.device):
            # Casts kept between steps would be those of the recorded step.
            return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)
        return nullcontext()

    def _freeze(self, frozen: bool) -> None:
        self.network.freeze_statistics(frozen)  # type: ignore[operator]  # every network of MODELS has it

    def _compile(self) -> None:
        """Compile what the blocks have in common, once for all: a whole network takes minutes."""
        for block in self.network.get_submodule("blocks").children():
            block.compile(dynamic=False)
        self._compiled = True

    def _leave_uncompiled(self) -> None:
        for block in self.network.get_submodule("blocks").children():
            block._compiled_call_impl = None
        self._compiled = False

    def _recorded(self, sampler: CropSampler, batch: int) -> bool:
        """Record steps with statistics of the crops and with frozen ones; False where memory does not suffice."""
        before = copied(self.state())
        try:
            for frozen in (False, True):
                self._record(sampler, batch, frozen)
            fits = True
        except torch.OutOfMemoryError:
            fits = False
        finally:  # whatever ends it, Ctrl-C included: warming up changes optimizer states and running means
            copy_into(self.state(), before)
        if not fits:  # here, and not where the error still holds on to what was allocated
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[:2] != (sampler.patch, batch)}
            self.network.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return fits

    def _record(self, sampler: CropSampler, batch: int, frozen: bool) -> None:
        """Warm up, which compiles and lets libraries choose kernels, and record a step."""
        key = (sampler.patch, batch, frozen)
        if key in self._graphs:
            return
        places = sampler.places(batch, seed=0, step=0).to(sampler.device)
        self._freeze(frozen)
        began = time.monotonic()
        try:
            self._warm_up(sampler, places)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler raises whatever it likes
            if not self._compiled:
                raise
            self.say(f"compiling failed ({_line(error)}); the blocks stay as they are")
            self._leave_uncompiled()
            self._warm_up(sampler, places)
        if self._records and sampler.device == self.device:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self._step(sampler, places)
                self._graphs[key] = _Recorded(graph, places)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.say(f"recording a step failed ({_line(error)}); steps are started one kernel at a time")
                self._records = False
        torch.cuda.synchronize()
        self.say(
            f"ready for {batch} crops of {sampler.patch}x{sampler.patch}, statistics {'frozen' if frozen else 'free'}, "
            f"in {time.monotonic() - began:.0f} s ({'compiled' if self._compiled else 'not compiled'}, "
            f"{'one graph' if key in self._graphs else 'no graph'})"
        )

    def _warm_up(self, sampler: CropSampler, places: Tensor) -> None:
        _on_a_side_stream(lambda: self._step(sampler, places))


class _Recorded:
    def __init__(self, graph: torch.cuda.CUDAGraph, places: Tensor) -> None:
        self.graph, self.places = graph, places


def make_optimizers(network: nn.Module, config: TrainConfig, rate: Tensor) -> list[torch.optim.Optimizer]:
    """The optimizers of a configuration, their states made and empty, which all follow the one ``rate``."""
    on_gpu = rate.device.type == "cuda"
    hidden: list[nn.Parameter] = []
    rest = list(network.parameters())
    if config.optimizer == "muon":
        hidden, rest = split_parameters(network, network.get_submodule("up").parameters())
    adam = torch.optim.Adam(rest, rate, betas=(0.9, 0.99), capturable=on_gpu, fused=True)
    for parameter in rest:
        parameter.grad = torch.zeros_like(parameter)
    adam.step()  # of zeros: makes the states, moves nothing
    for state in adam.state.values():
        state["step"].zero_()
    adam.zero_grad(set_to_none=True)
    return [adam, Muon(hidden, rate)] if hidden else [adam]


def choose_depthwise_form(network: nn.Module, config: TrainConfig, batch: int, patch: int, say: Say) -> None:
    """On a GPU, time each form of a block's large kernels, forward and backward, and train with the fastest."""
    device = next(network.parameters()).device
    modules = [module for module in network.modules() if isinstance(module, LCIPB)]
    if device.type != "cuda" or not modules:
        return
    module, times = modules[0], {}
    torch.backends.cudnn.benchmark = True
    x = torch.randn(batch, module.screen.in_channels, patch, patch, device=device)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    for form in DEPTHWISE_FORMS[1:]:  # a kernel for each tap would be nothing but launches
        module.form = form
        try:
            times[form] = _replay_seconds(lambda: _forward_backward(module, x, uses_bf16(config.precision, device)))
        except RuntimeError as error:
            say(f"large kernels as {form}: not here ({_line(error)})")
    best = min(times, key=lambda form: times[form]) if times else "depthwise"
    for each in modules:
        each.form = best
    listed = ", ".join(f"{form} {1e3 * seconds:.2f} ms" for form, seconds in times.items())
    say(f"large kernels, one block, forward and backward: {listed}; {best} is used")


def _forward_backward(module: nn.Module, x: Tensor, bf16: bool) -> None:
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False):
        total = module(x).float().sum()
    torch.autograd.grad(total, [x, *module.parameters()])


def _replay_seconds(work: Callable[[], None], replays: int = 100) -> float:
    """Seconds that work takes in a CUDA graph, as it will in training: eager, starting the kernels takes longer."""
    _on_a_side_stream(work)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(replays):
        graph.replay()
    torch.cuda.synchronize()
    return (time.monotonic() - began) / replays


def _on_a_side_stream(work: Callable[[], None]) -> None:
    """Work before it is recorded: what compiles does so, and libraries choose their kernels."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_STEPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)


def pool_device(size_bytes: int, device: torch.device, say: Say) -> torch.device:
    """Where photos of that size are kept: on the device, or on the CPU where they would crowd it."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    if size_bytes <= _POOL_SHARE * free:
        return device
    say(f"{size_bytes / 2**30:.1f} GiB of photos are too many for {free / 2**30:.1f} GiB of memory; the CPU cuts crops")
    return torch.device("cpu")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether convolutions run in bf16; see :class:`TrainConfig` for what "auto" means."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(device.type == "cpu" and amx is not None and amx())


def copied(state: Any) -> Any:
    """A copy of tensors nested in dicts and lists."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state]


@torch.no_grad()
def copy_into(own: Any, saved: Any) -> None:
    """Write ``saved`` into the tensors of ``own``, which stay where they are, as a recorded graph wants them.

    Raises:
        ValueError: other names, numbers or shapes.
    """
    if isinstance(own, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != own.shape:
            raise ValueError(f"a tensor is of shape {tuple(getattr(saved, 'shape', ()))}, not {tuple(own.shape)}")
        own.copy_(saved)
        return
    if len(own) != len(saved):
        raise ValueError(f"{len(saved)} entries, not {len(own)}")
    for key, value in own.items() if isinstance(own, dict) else enumerate(own):
        copy_into(value, saved[key])


def _floating_pairs(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    current = network.state_dict()
    pairs = [(value, current[name]) for name, value in average.state_dict().items() if value.is_floating_point()]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _line(error: BaseException) -> str:
    return cause_of(error, limit=200)
