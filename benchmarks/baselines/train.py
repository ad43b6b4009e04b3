"""Train a learned codec: ``python -m benchmarks.baselines.train SSF --out FOLDER``.

Weights go to ``FOLDER/<codec>_without_<volume>.pt`` for each volume, trained on all others but that
one (the real ones at hand, never the one that a file is for) or, with ``--folds 2``, on the half of
them that lacks it. Codecs look for such files in the folder that ``TINC_WEIGHTS`` names.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import datasets
from benchmarks.baselines.learned import STRIDE, padded
from benchmarks.baselines.protocol import Array
from benchmarks.baselines.sga_bb import Intra
from benchmarks.baselines.video_models import Dvc, ScaleSpaceFlow
from tinc_codec.runtime import current_runtime

MODELS: dict[str, Any] = {"SSF": ScaleSpaceFlow, "SGA+BB": Intra, "DVC": Dvc}
_RATE = 1e-3
_CLIPS, _SLICES, _SIDE = 4, 3, 2 * STRIDE
_Q = (0.2, 20.0)


def train(codec: str, volumes: list[Array], steps: int, seed: int = 0) -> torch.nn.Module:
    """Return a codec's network, trained on random clips of 3 slices of 64² voxels of volumes."""
    torch.set_num_threads(current_runtime().thread_count())
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model: torch.nn.Module = MODELS[codec]()
    adam = torch.optim.Adam(model.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    units = [_unit(volume) for volume in volumes]
    for _ in range(steps):
        q = _Q[0] * (_Q[1] / _Q[0]) ** draw.random()
        clip = torch.stack([_clip(draw.choice(units), draw) for _ in range(_CLIPS)])
        loss = model.loss(clip, q)  # type: ignore[operator]
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def _unit(volume: Array) -> torch.Tensor:
    values = np.asarray(volume, np.float32)
    return padded(torch.from_numpy((values - values.mean()) / values.std()))


def _clip(unit: torch.Tensor, draw: random.Random) -> torch.Tensor:
    size = (_SLICES, min(_SIDE, unit.shape[1]), min(_SIDE, unit.shape[2]))
    z, y, x = (draw.randrange(n - s + 1) for n, s in zip(unit.shape, size, strict=True))
    clip = unit[z : z + size[0], y : y + size[1], x : x + size[2]]
    spare = (0, _SIDE - size[2], 0, _SIDE - size[1])
    return torch.nn.functional.pad(clip[None], spare, mode="replicate")[0] if any(spare) else clip


def corner(volume: Array) -> str:
    """Return a digest of a volume's first 8³ voxels, by which it is known again."""
    first = np.ascontiguousarray(volume[:8, :8, :8])
    return hashlib.sha256(first.tobytes()).hexdigest()


def save(model: torch.nn.Module, path: Path, facts: str, volumes: list[Array]) -> None:
    """Write weights, what they were trained on, and the corners of those volumes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = [corner(volume) for volume in volumes]
    torch.save({"weights": model.state_dict(), "facts": facts, "seen": seen}, path)


def load(codec: str, path: Path) -> tuple[Any, str, list[str]]:
    """Return a network, what it was trained on, and the corners of those volumes."""
    stored = torch.load(path, weights_only=True)
    model = MODELS[codec]()
    model.load_state_dict(stored["weights"])
    return model.eval().requires_grad_(False), stored["facts"], stored["seen"]


def main() -> None:
    """Train for each volume, without it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codec", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--folds", type=int, default=0, help="0: leave out one volume at a time")
    options = parser.parse_args()
    names = [name for name in datasets.names() if name != datasets.PHANTOM]
    folds = options.folds or len(names)
    if len(names) < 2 or folds < 2:
        parser.error(f"two volumes and folds are needed; volumes: {names}, folds: {folds}")
    for fold in range(folds):
        others = [name for place, name in enumerate(names) if place % folds != fold]
        volumes = [datasets.first_block(datasets.load(name), 128) for name in others]
        model = train(options.codec, volumes, options.steps)
        facts = f"small-scale training: {options.steps} steps on {len(others)} other volumes"
        for name in names[fold::folds]:
            save(model, options.out / f"{options.codec}_without_{name}.pt", facts, volumes)


if __name__ == "__main__":
    main()
