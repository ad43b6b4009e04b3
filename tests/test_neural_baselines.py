"""Neural baselines: bytes are whole and within the budget, and more of them or of steps help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinc_codec import runtime
from tinc_codec.metrics import psnr
from tinc_codec.phantom import phantom

torch = pytest.importorskip("torch", reason="the neural baselines need torch")

VOLUME = phantom((8, 40, 36))
IMPLICIT = ("SIREN", "NeRF", "SCI", "NeRV")
LEARNED = ("SSF", "SGA+BB", "DVC")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.delenv("TINC_WEIGHTS", raising=False)
    with runtime(threads=1):
        yield


def encode(name: str, volume: Any, ratio: float, effort: int = 1) -> Any:
    from benchmarks.baselines import registry
    from benchmarks.baselines.protocol import Target

    return registry.get(name).encode(volume, Target(ratio=ratio, effort=effort))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "uint16") for name in (*IMPLICIT, *LEARNED)), ("SIREN", "uint8"), ("SCI", "float32")],
)
def test_round_trip_within_the_bytes(name: str, dtype: str) -> None:
    unit = (VOLUME - float(VOLUME.min())) / float(np.ptp(VOLUME))
    volume = (200 * unit).astype(dtype)
    ratio = 8 if dtype == "uint8" else 16
    coded = encode(name, volume, ratio)
    assert 0 < coded.payload_bytes <= volume.nbytes / ratio
    assert coded.decoded.shape == volume.shape
    assert coded.decoded.dtype == volume.dtype
    np.testing.assert_array_equal(coded.decode(), coded.decoded)
    assert len(coded.decode.args[-2]) == coded.payload_bytes
    assert "steps" in coded.note
    assert coded.encode_s > 0
    assert coded.decode_s > 0


@pytest.mark.parametrize("name", IMPLICIT)
def test_decoding_needs_the_bytes_only(name: str) -> None:
    """Of the volume, shape and dtype: not its values."""
    coded = encode(name, VOLUME, 16)
    method, payload = coded.decode.func, coded.decode.args[0]
    np.testing.assert_array_equal(method(payload, np.zeros_like(VOLUME)), coded.decoded)
    other = bytearray(payload)
    other[1] ^= 0x40  # the mean
    assert not np.array_equal(method(bytes(other), VOLUME), coded.decoded)


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_ones_gain_by_steps_and_bytes(name: str) -> None:
    good, few_steps, few_bytes = (
        encode(name, VOLUME, ratio, effort) for ratio, effort in ((8, 3), (8, 1), (64, 3))
    )
    assert few_bytes.payload_bytes < good.payload_bytes / 4
    assert psnr(VOLUME, good.decoded) > psnr(VOLUME, few_steps.decoded) + 0.5
    assert psnr(VOLUME, good.decoded) > psnr(VOLUME, few_bytes.decoded) + 0.5


@pytest.mark.parametrize("name", [*IMPLICIT, *LEARNED])
def test_out_of_reach_is_none(name: str) -> None:
    assert encode(name, VOLUME, 2000) is None


# Learned ones.


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    from benchmarks.baselines.train import train

    with runtime(threads=1):
        return {name: train(name, [phantom((8, 64, 64), seed=5)], 12) for name in LEARNED}


@pytest.mark.parametrize("name", LEARNED)
def test_a_wider_step_takes_fewer_bytes_and_restores_less(
    name: str, models: dict[str, Any]
) -> None:
    from benchmarks.baselines.data_driven import Learned

    codec, model = Learned(name), models[name]
    payloads = [codec.compress(model, VOLUME, q) for q in (0.1, 1, 10)]
    sizes = [len(payload) for payload in payloads]
    assert sizes[0] > sizes[1] > sizes[2]
    restored = [codec.decompress(model, payload, np.zeros_like(VOLUME)) for payload in payloads]
    assert psnr(VOLUME, restored[0]) > psnr(VOLUME, restored[2])


@pytest.mark.parametrize("name", LEARNED)
def test_training_lowers_the_loss(name: str, models: dict[str, Any]) -> None:
    from benchmarks.baselines.train import MODELS

    clip = torch.from_numpy(phantom((3, 64, 64), seed=9).astype(np.float32))[None]
    clip = (clip - clip.mean()) / clip.std()
    torch.manual_seed(0)
    with torch.no_grad():
        assert models[name].loss(clip, 1.0) < MODELS[name]().loss(clip, 1.0)


def test_weights_from_a_file_and_never_those_that_saw_the_volume(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.baselines.data_driven import model_for
    from benchmarks.baselines.train import save

    monkeypatch.setenv("TINC_WEIGHTS", str(tmp_path))
    save(models["SGA+BB"], tmp_path / "SGA+BB_without_a.pt", "saw it", [VOLUME])
    save(models["SGA+BB"], tmp_path / "SGA+BB_without_b.pt", "did not", [VOLUME[:, ::-1]])
    model, facts = model_for("SGA+BB", VOLUME, 1)
    assert facts == "did not"
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, models["SGA+BB"].state_dict()[name])
    (tmp_path / "SGA+BB_without_b.pt").unlink()
    assert "phantoms" in model_for("SGA+BB", VOLUME, 1)[1]


def test_annealing_lowers_what_it_minimises(models: dict[str, Any]) -> None:
    from benchmarks.baselines.learned import bits, multiplier, padded

    intra, q = models["SGA+BB"], 1.0
    frames = padded(torch.from_numpy((VOLUME - VOLUME.mean()) / VOLUME.std()).float())

    def cost(y: Any, z: Any) -> float:
        y, z = (q * (v / q).round() for v in (y, z))
        spent = bits(y, *intra.codec.prior(z), q) + bits(z, *intra.codec.hyper(z.shape), q)
        error = (intra.codec.synthesis(y)[:, 0] - frames).square().sum()
        return float(spent + multiplier(q) * error)

    torch.manual_seed(0)
    y = intra.codec.analysis(frames[:, None])
    before = cost(y, intra.codec.hyper_analysis(y))
    intra.refine(frames, q, 40)
    after = cost(*intra.refined)
    intra.refined = None
    assert after < before


# SCI's partition.


def test_the_partition_tiles_the_volume_and_follows_concentration() -> None:
    from benchmarks.baselines.sci import _read_tree, _tree_bytes, box_of, partition

    volume = np.full((16, 16, 16), 100.0)
    noise = np.random.default_rng(0).normal(0, 60, (8, 8, 8))
    volume[:8, :8, :8] += noise
    nodes = partition(volume, 8)
    assert len(nodes) == 8
    covered = np.zeros(volume.shape, int)
    for node in nodes:
        covered[box_of(node, volume.shape)] += 1
    assert (covered == 1).all()
    assert partition(volume, 1) == [(0, 0, 0, 0)]
    more = partition(volume, 15)
    assert sum(node[0] == 2 for node in more) in (0, 8)
    assert _read_tree(_tree_bytes(more)[1:]) == more


def test_warps_move_what_they_should() -> None:
    from benchmarks.baselines.video_models import scale_space_warp, warp

    image = torch.rand(1, 1, 32, 32)
    flow = torch.zeros(1, 3, 32, 32)
    flow[:, 0], flow[:, 2] = 2, -1
    moved = scale_space_warp(image, flow)
    torch.testing.assert_close(moved[..., :-2], image[..., 2:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(warp(image, flow[:, :2]), moved, atol=1e-4, rtol=1e-4)
    flow[:, 2] = 1
    assert scale_space_warp(image, flow).std() < 0.3 * image.std()
