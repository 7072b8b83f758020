"""Float training: one loop for a laptop's cores, a GPU, or ``torchrun`` over several processes.

A run lives in a folder: ``config.json``, ``log.jsonl`` (a line per validation), ``snapshot.pt`` (weights, averaged
weights, optimizer state, step) with the one before it, and ``network.safetensors`` with the averaged weights, which
says whether it is finished. A run that was cut goes on from its snapshot with the crops it would have seen: on one
machine with one thread count it ends at the same loss.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_sr.atomic import atomic_path
from edge_sr.checkpoints import load_checkpoint, save_checkpoint
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.networks import create_network
from edge_sr.training.config import Phase, TrainConfig, config_from_mapping
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.distributed import Processes
from edge_sr.training.engine import Engine, choose_depthwise_form, copied, copy_into, pool_device
from edge_sr.training.interrupts import interrupts_between_steps
from edge_sr.training.run_folder import check_writable, read_json_object, repaired_log
from edge_sr.training.schedule import Position
from edge_sr.training.snapshots import load_snapshot, save_snapshot, to_stderr
from edge_sr.training.validation import HeldOut

SNAPSHOT, LOG, CONFIG, NETWORK = "snapshot.pt", "log.jsonl", "config.json", "network.safetensors"

# A GPU is waited for once in so many steps; a CPU's steps are long, and each is looked at.
_GPU_STEPS = 50
_MOST_STEPS = 10**8  # of a run whose configuration sets no end
_LEAST_RATE = 1 / 32  # halved five times: what diverges even then is no matter of the rate


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress bar shows.

    Attributes:
        step: steps done.
        done: share of the run, 0..1; None for a run without an end.
        loss: running mean.
        psnr_y_db: last held-out PSNR, NaN before the first.
        steps_per_second: over the last steps, of this process's time.
        seconds: trained until now.
    """

    step: int
    done: float | None
    loss: float
    psnr_y_db: float
    steps_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended: ``finished`` tells the end of its schedule from a cut; PSNR is on the held-out photos."""

    steps: int
    psnr_y_db: float
    bicubic_psnr_y_db: float
    seconds: float
    checkpoint: Path
    finished: bool


class Trainer:
    """One run.

    Args:
        config: what to train and how.
        pool: packed photos of the config's scale.
        out: the run's folder; an existing run of the same configuration goes on.
        init: checkpoint to start the weights from, when the run is new.
        metadata: facts to keep in the checkpoint (command, data, licences).
        say: told in one line of what falls back, is mended or is started again.
    Raises:
        ConfigError: the folder holds a run of another configuration, or the pool has another scale.
        CheckpointError: no whole snapshot, ``init`` of another network, or a folder that cannot be written.
    """

    def __init__(
        self,
        config: TrainConfig,
        pool: CropPool,
        out: Path,
        *,
        init: Path | None = None,
        metadata: dict[str, Any] | None = None,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        if pool.scale != config.scale:
            raise ConfigError(f"expected a pool of scale {config.scale}, got one of scale {pool.scale}")
        self.config, self.pool, self.out, self.metadata = config, pool, out, dict(metadata or {})
        self.processes = Processes.start()
        self.say = say if self.processes.is_first else lambda line: None
        self.device = self.processes.device
        if any(phase.batch % self.processes.world_size for phase in config.phases):
            raise ConfigError(
                f"expected batches that {self.processes.world_size} processes share evenly, got "
                f"{', '.join(str(phase.batch) for phase in config.phases)}; change them or --nproc-per-node"
            )
        where = pool_device(pool.size_bytes, self.device, self.say)
        self.samplers = {phase.patch: pool.sampler(phase.patch, where, reduced=True) for phase in config.phases}
        torch.manual_seed(config.seed)
        network = create_network(config.model, config.scale, **config.network)
        if init is not None:
            _start_from(network, init, config.model)
        # channels_last convolutions measured up to 1.4 times as fast on CPUs; torch 2.13's stubs lack the argument.
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        first = config.phases[0]
        choose_depthwise_form(self.network, config, first.batch, first.patch, self.say)
        self.engine = Engine(self.network, self.processes.wrap(self.network), self.ema, config, self.say)
        self.step, self.loss, self.psnr_y_db, self.seconds, self.rate = 0, math.nan, math.nan, 0.0, 1.0
        self.steps_per_second, self._validated_at = math.nan, -1
        self._claim_folder()
        self._whole, self._is_prepared = True, False
        if self._resume(self.out / SNAPSHOT) and init is not None:
            self.say(f"{out} holds a run, which goes on; {init} would start a new one")
        self._drop_log_after(self.step)
        self._good = self._state()
        self.held_out = HeldOut(pool)

    @property
    def position(self) -> Position:
        """Where the run stands."""
        return Position(config=self.config, step=self.step, seconds=self.seconds)

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        stop_at: int | None = None,
        stop_after: float | None = None,
    ) -> TrainResult:
        """Train to the end, to ``stop_at`` steps or for ``stop_after`` seconds from now.

        However it ends, a snapshot and the averaged weights are written; an interrupt is raised again after that.
        """
        stop_at = min(_MOST_STEPS, stop_at if stop_at is not None else _MOST_STEPS)
        until = math.inf if stop_after is None else self.seconds + stop_after
        saved = self.seconds
        ended = False
        try:
            with interrupts_between_steps() as interrupt_if_asked:
                while not self.position.is_end and self.step < stop_at and self.seconds < until:
                    self.prepare()
                    self._train(stop_at)
                    if self.position.validations > self._validations_done:
                        self._validate()
                    if self.seconds - saved >= self.config.snapshot_seconds:
                        self._save_snapshot()
                        saved = self.seconds
                    if progress is not None:
                        progress(self._progress())
                    interrupt_if_asked()
            ended = True
        finally:
            self._leave(ended)
        self.processes.wait()
        return TrainResult(
            steps=self.step,
            psnr_y_db=self.psnr_y_db,
            bicubic_psnr_y_db=self.held_out.bicubic_psnr_y_db(),
            seconds=self.seconds,
            checkpoint=self.out / NETWORK,
            finished=self.position.is_end,
        )

    def _leave(self, ended: bool) -> None:
        """Write what there is, whatever happened: never a step that was half done."""
        if not self._whole:
            self._restore()
        self._save_snapshot()
        due = float(self._validated_at != self.step)
        if ended:  # all processes are here, of which only the first knows what a log from before says
            due, _ = self.processes.agreed(due, 0.0)
        if due:
            self._validate(together=ended)
        self._save_network()
        if not ended:
            self.say(f"cut at step {self.step}: {self.psnr_y_db:.3f} dB on held-out photos, {self.out / NETWORK}")

    def prepare(self, minutes: Callable[[], float] | None = None) -> None:
        """Compile and record every kind of step of the run, once and off its clock; a batch may come out smaller.

        Args:
            minutes: asked afterwards for the length of a run by the clock, for who has to end at a certain time.
        """
        if self._is_prepared:
            return
        phases = []
        for phase in self.config.phases:
            batch = self.engine.prepare(self.samplers[phase.patch], phase.batch // self.processes.world_size)
            batch = self.processes.least(batch)
            phases.append(Phase(steps=phase.steps, patch=phase.patch, batch=batch * self.processes.world_size))
        length = self.config.minutes if minutes is None else minutes()
        self.config = replace(self.config, phases=tuple(phases), minutes=length)
        self._is_prepared = True

    def _train(self, stop_at: int) -> None:
        """As many steps as are taken at once."""
        began, now = time.monotonic(), self.position
        phase, steps = now.phase, self._steps_at_once(now, stop_at)
        processes, sampler = self.processes, self.samplers[phase.patch]
        mine = slice(*(phase.batch * r // processes.world_size for r in (processes.rank, processes.rank + 1)))
        ahead = range(self.step, self.step + steps)
        self._whole = False
        loss = self.engine.run(
            sampler,
            [sampler.places(phase.batch, seed=self.config.seed, step=step)[mine] for step in ahead],
            rates=[self.config.lr * self.rate * replace(now, step=step).rate_factor for step in ahead],
            # Early on the average is short, so that it forgets the first steps.
            renewals=[1 - min(self.config.ema_decay, (1 + step) / (10 + step)) for step in ahead],
            frozen=now.statistics_are_frozen,
        )
        took = time.monotonic() - began
        self._whole = True
        self.seconds, loss = processes.agreed(self.seconds + took, loss)
        if not math.isfinite(loss):
            self._go_back(loss)
            return
        self._validations_done = now.validations
        self.step += steps
        self.loss = loss if math.isnan(self.loss) else self.loss + (loss - self.loss) * (1 - 0.95**steps)
        speed = steps / took
        self.steps_per_second = speed if math.isnan(self.steps_per_second) else self.steps_per_second * 0.9 + speed / 10

    def _steps_at_once(self, now: Position, stop_at: int) -> int:
        """So many that nothing is passed over: a change of phase or statistics, a validation, the end."""
        most = 1 if self.device.type == "cpu" else _GPU_STEPS
        limits = [most, stop_at - self.step]
        if not self.config.minutes:
            limits += [step - self.step for step in self._turns() if step > self.step]
            limits.append(self.config.validate_every - self.step % self.config.validate_every)
        return max(1, min(limits))

    def _turns(self) -> list[int]:
        """Steps at which a run by steps changes."""
        frozen_from = math.ceil(self.config.freeze_statistics_at * self.config.steps)
        last = self.position.last_step
        return [*self.config.phase_ends, frozen_from, *([last] if last else [])]

    def _go_back(self, loss: float) -> None:
        """After a loss that is not finite: the last good state, and half the rate."""
        self.rate /= 2
        at = self.step
        self._restore()
        if self.rate < _LEAST_RATE:
            raise ConfigError(f"expected a finite loss, got {loss} after step {at}; lower lr or clip_grad_norm")
        self.say(f"the loss became {loss} after step {at}; on from step {self.step} at half the rate")

    def _restore(self) -> None:
        copy_into(self.engine.state(), self._good["tensors"])
        self.step, self._whole = self._good["step"], True
        self._drop_log_after(self.step)

    def _validate(self, together: bool = True) -> None:
        """Measure in the first process; ``together`` where all processes are here, which then agree on the time."""
        began = time.monotonic()
        if self.processes.is_first:
            self.psnr_y_db = self.held_out.psnr_y_db(self.ema, self.device)
        self.seconds += time.monotonic() - began
        if together:
            self.seconds, _ = self.processes.agreed(self.seconds, 0.0)
        self._validated_at = self.step
        if not self.processes.is_first:
            return
        now = self.position
        line = {
            "step": self.step,
            "loss": None if math.isnan(self.loss) else round(self.loss, 6),
            "held_out_psnr_y_db": round(self.psnr_y_db, 4),
            "lr": self.config.lr * self.rate * now.rate_factor,
            "seconds": round(self.seconds, 1),
            "steps_per_second": None if math.isnan(self.steps_per_second) else round(self.steps_per_second, 2),
        }
        with (self.out / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _progress(self) -> Progress:
        now = self.position
        endless = now.last_step is None and not self.config.minutes
        return Progress(
            step=self.step,
            done=None if endless else now.done,
            loss=self.loss,
            psnr_y_db=self.psnr_y_db,
            steps_per_second=self.steps_per_second,
            seconds=self.seconds,
        )

    def _claim_folder(self) -> None:
        path, mine = self.out / CONFIG, json.loads(json.dumps(self.config.to_json()))
        if path.is_file():
            theirs = config_from_mapping(read_json_object(path))
            # By the clock or by steps, and how long, may change from one call to the next.
            if replace(theirs, minutes=0.0) != replace(config_from_mapping(mine), minutes=0.0):
                raise ConfigError(
                    f"expected the configuration of {path}, got another; choose another --out or delete {self.out}"
                )
        elif self.processes.is_first:
            check_writable(self.out, folder=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(mine, indent=2) + "\n")

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
            "rate": self.rate,
            "pool_sha256": self.pool.sha256,
            "tensors": copied(self.engine.state()),
        }

    def _save_snapshot(self) -> None:
        state = self._state()
        if not all(bool(torch.isfinite(value).all()) for value in state["tensors"]["network"].values()):
            return  # a run that diverged leaves its last good snapshot
        self._good = state
        if self.processes.is_first:
            save_snapshot(self.out / SNAPSHOT, state)

    def _resume(self, path: Path) -> bool:
        state = load_snapshot(path, self.device, steps=self.position.last_step or _MOST_STEPS, warn=self.say)
        if state is None:
            return False
        if state.get("pool_sha256") != self.pool.sha256:
            raise ConfigError(f"expected the photos that {path} was trained on, got others; give the same --data")
        try:
            copy_into(self.engine.state(), state["tensors"])
            self.step, self.seconds, self.rate = state["step"], float(state["seconds"]), float(state["rate"])
            self.loss = float(state["loss"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected a snapshot of this run, got {path} ({error}); delete it") from error
        return True

    def _drop_log_after(self, step: int) -> None:
        """A cut run may have logged steps that its last snapshot does not hold; they will be logged again."""
        self._validations_done = self.position.validations
        if not self.processes.is_first:
            return
        entries, damaged = repaired_log(self.out / LOG, step)
        self.psnr_y_db = float(entries[-1].get("held_out_psnr_y_db", math.nan)) if entries else math.nan
        self._validated_at = -1 if math.isnan(self.psnr_y_db) else entries[-1]["step"]
        if damaged:
            self.say(f"{damaged} damaged lines of {self.out / LOG} are left out")

    def _save_network(self) -> None:
        if self.processes.is_first:
            facts = {
                "steps": self.step,
                "finished": self.position.is_end,
                "held_out_psnr_y_db": None if math.isnan(self.psnr_y_db) else self.psnr_y_db,
                "train_seconds": round(self.seconds, 1),
                "device": self.processes.describe(),
                "torch": torch.__version__,
                "pool_sha256": self.pool.sha256,
                "train_images": self.pool.train_files,
                "held_out_images": len(self.pool.held_out_images),
                "training_config": self.config.to_json(),
            }
            save_checkpoint(self.out / NETWORK, self.ema, {**facts, **self.metadata})


def _start_from(network: nn.Module, init: Path, model: str) -> None:
    """Take over every tensor that fits: a network of another scale gives all but its up-convolution."""
    source = load_checkpoint(init, expect_model=model).network.state_dict()
    own = network.state_dict()
    fitting = {name: value for name, value in source.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"expected weights that fit this {model}, got {init}, of which none does")
    network.load_state_dict({**own, **fitting})
