"""Train nano: a small promptable encoder and decoder, from nothing, on generated X-rays alone.

Comes in: a seed and a budget. Goes out: a run folder with ``nano.safetensors`` (float16; the file that the
package ships, when this was run with its defaults), ``losses.csv``, ``curves.svg`` and ``results.json``. No
X-ray of a patient, no label and no weights of another model enter, so that every real set is unseen. A
killed run goes on with ``resume`` from a checkpoint of at most a minute before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungfast.compute import resolve_precision
from lungfast.data.randomised import STRUCTURES
from lungfast.files import write_atomic
from lungfast.frozen.nano import NANO, nano_bytes, nano_modules
from lungfast.report.pretraining import loss_curves
from lungfast.runs import RunFolder, open_run, provenance, results
from lungfast.studies.fitting import Listener
from lungfast.studies.pretraining_data import Examples, collate
from lungfast.trained.pretraining import PretrainingConfig

if TYPE_CHECKING:
    import torch

    from lungfast.trained.pretraining import Pretraining
    from lungfast.trained.promptable import PromptableBatch

CHECKPOINT, SECONDS_BETWEEN = "pretraining", 45.0
LOG, WEIGHTS, FIGURE = "losses.csv", "nano.safetensors", "curves.svg"
LOG_EVERY, SUMMED_STEPS = 20, 200
QUICK = PretrainingConfig(steps=3, small_steps=2, batch=2, warm_up=1)


@dataclass(frozen=True, kw_only=True)
class PretrainRequest:
    """Where the run goes and what it may use; ``workers`` processes draw X-rays beside the training."""

    config: PretrainingConfig
    output: Path
    device: torch.device
    precision: str = "auto"
    workers: int = 1
    resume: bool = False
    overwrite: bool = False


def pretrain(request: PretrainRequest, listener: Listener) -> dict[str, Any]:
    """Run or go on; returns the content of results.json."""
    precision = resolve_precision(request.precision, request.device)
    # fp16 needs loss scaling, which is not written: older GPUs train in float32
    bf16 = precision.name == "bf16"
    question: dict[str, Any] = {
        "study": "pretrain",
        "config": asdict(request.config),
        "settings": {"encoder": asdict(NANO)},
    }
    question |= {"device": request.device.type, "bf16": bf16}
    with open_run(request.output, question, resume=request.resume, overwrite=request.overwrite) as run:
        if run.complete:
            return dict(run.read("results.json"))
        return _train(request, run, listener, bf16=bf16)


def _train(request: PretrainRequest, run: RunFolder, listener: Listener, *, bf16: bool) -> dict[str, Any]:
    from lungfast.trained.pretraining import Pretraining

    config = request.config
    training = Pretraining(_model(config.seed), config, request.device, bf16=bf16)
    log, seconds = _restored(run, training)
    listener.phase("pretraining", config.steps * config.batch)
    listener.advance(training.step * config.batch)
    recent: list[dict[str, float]] = []
    saved = started = time.monotonic()
    for batch in _batches(request, training.step):
        recent.append(training.train(batch))
        listener.advance(config.batch)
        now = time.monotonic()
        if training.step % LOG_EVERY == 0 or training.step == config.steps:
            log.append(_mean_row(training.step, recent, seconds + now - started))
            recent = []
            if now - saved > SECONDS_BETWEEN:
                _save(run, training, log)
                saved = now
    return _finish(run, training, log, request)


def _model(seed: int) -> Any:
    import torch

    from lungfast.trained.promptable import PromptableModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PromptableModel(*nano_modules(), structures=len(STRUCTURES))


def _batches(request: PretrainRequest, done: int) -> Iterator[PromptableBatch]:
    """The batches after the first ``done``, drawn by worker processes where there are any."""
    from torch.utils.data import DataLoader

    config = request.config
    examples = Examples(
        seed=config.seed,
        n=config.steps * config.batch,
        batch=config.batch,
        side=NANO.input_size,
        small=config.small_steps,
    )
    loader: DataLoader[Any] = DataLoader(
        examples,  # type: ignore[arg-type]
        batch_size=config.batch,
        sampler=range(done * config.batch, len(examples)),
        collate_fn=collate,
        num_workers=request.workers,
        prefetch_factor=4 if request.workers else None,
        pin_memory=request.device.type == "cuda",
    )
    return iter(loader)


def _mean_row(step: int, recent: Sequence[dict[str, float]], seconds: float) -> dict[str, float]:
    """Means since the last row; seconds of training, pauses left out."""
    means = {name: round(float(np.mean([one[name] for one in recent])), 5) for name in recent[0]}
    return {"step": step, "seconds": round(seconds, 1)} | means


def summary_of(log: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Step and seconds of the end; losses and Dice as means over the last :data:`SUMMED_STEPS` steps."""
    end = log[-1]
    rows = [row for row in log if row["step"] > end["step"] - SUMMED_STEPS]
    steps = np.diff([0, *(row["step"] for row in log)])[-len(rows) :]
    means = {name: round(float(np.average([row[name] for row in rows], weights=steps)), 5) for name in end}
    return means | {name: end[name] for name in ("step", "seconds")}


def _save(run: RunFolder, training: Pretraining, log: Sequence[dict[str, float]]) -> None:
    state = training.state()
    notes = {"epoch": training.step, "status": list(state), "log": list(log)}
    run.write_checkpoint(CHECKPOINT, notes, state.values())


def _restored(run: RunFolder, training: Pretraining) -> tuple[list[dict[str, float]], float]:
    """Load the newest checkpoint, if there is one; the log so far and its seconds."""
    found = run.read_checkpoint(CHECKPOINT)
    if found is None:
        return [], 0.0
    notes, states = found
    training.load(dict(zip(notes["status"], states, strict=True)), notes["epoch"])
    return list(notes["log"]), float(notes["log"][-1]["seconds"])


def _finish(
    run: RunFolder, training: Pretraining, log: Sequence[dict[str, float]], request: PretrainRequest
) -> dict[str, Any]:
    weights = nano_bytes(training.average)
    write_atomic(run.path / WEIGHTS, weights)
    run.write_rows(LOG, log)
    write_atomic(run.path / FIGURE, loss_curves(log).encode())
    config = request.config
    row = {
        "key": "nano",
        "xrays": config.steps * config.batch,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "parameters": {
            name: sum(p.numel() for p in module.parameters())
            for name, module in training.average.named_children()
        },
    } | summary_of(log)
    made_with = provenance(str(request.device), config=asdict(config), encoder=asdict(NANO))
    content = results("pretrain", [row], made_with)
    run.write_results(content)
    return content
