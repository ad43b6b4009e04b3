"""Parts of a source: a box (--roi), and what lies in a mask (--mask)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from volumes import QUICK, volume

import tinc_codec
from tinc_codec import InvalidSetting, Settings
from tinc_codec.archive import convert, estimate, info, ome, open_source, plan, run, verify
from tinc_codec.cli import main

LOSSLESS = Settings(max_error=0)
SHAPE = (20, 24, 28)
ROI = np.s_[4:18, :, 9:28]
BOX = np.s_[4:18, 0:24, 9:28]


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    np.save(tmp_path / "source.npy", volume(SHAPE))
    return tmp_path / "source.npy"


def ball(shape: tuple[int, ...]) -> Any:
    """A ball of most of the width in the middle."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(g**2 for g in grids) < 0.6


def saved_mask(folder: Path, mask: Any) -> Path:
    np.save(folder / "mask.npy", mask)
    return folder / "mask.npy"


def ome_zarr(folder: Path, scale: Any, zarr_format: Any = 3) -> Path:
    grid = ome.grid("czyx", scale=(None, *scale), units=(None, *["micrometer"] * 3))
    channels = [
        {"color": "FFFFFF", "label": f"c{k}", "window": {"start": 0, "end": 9, "min": 0, "max": 9}}
        for k in range(2)
    ]
    attributes = ome.image_attributes(
        grid, [("0", (1,) * 4)], zarr_format, block={"omero": {"channels": channels}}
    )
    group = zarr.create_group(folder / "s.zarr", zarr_format=zarr_format, attributes=attributes)
    described = ome.array_options(grid, {}, zarr_format)
    group.create_array("0", data=volume((2, *SHAPE)), chunks=(1, 8, 8, 8), **described)
    return folder / "s.zarr"


# Boxes.


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_box_is_converted_as_if_it_were_all(npy: Path, dst: Path, zarr_format: Any) -> None:
    convert(npy, dst, LOSSLESS, chunks=(8, 8, 8), roi=ROI, zarr_format=zarr_format)
    assert np.array_equal(zarr.open_group(dst, mode="r")["data"][:], np.load(npy)[ROI])
    provenance = info(dst).provenance
    assert provenance is not None
    assert provenance["roi"] == [[4, 18], [0, 24], [9, 28]]
    assert verify(npy, dst).errors.max_error == 0


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_offset_goes_into_the_metadata_and_voxel_sizes_stay(
    tmp_path: Path, dst: Path, zarr_format: Any
) -> None:
    models = pytest.importorskip("ome_zarr_models")
    src = ome_zarr(tmp_path, (2.0, 0.5, 0.25), zarr_format)
    run(plan(src, dst, LOSSLESS, roi=(slice(1, 2), *ROI), levels=2, zarr_format=zarr_format))
    found = models.open_ome_zarr(dst).attributes
    image = (found.ome if zarr_format == 3 else found).multiscales[0]
    fine, coarse = (level.coordinateTransformations for level in image.datasets)
    assert fine[0].scale == [1, 2.0, 0.5, 0.25]
    assert fine[1].translation == [0, 8.0, 0.0, 2.25]
    factors = [c / f for c, f in zip(coarse[0].scale, fine[0].scale, strict=True)]
    moved = [f + s * (n - 1) / 2 for f, s, n in zip(
        fine[1].translation, fine[0].scale, factors, strict=True)]  # fmt: skip
    assert coarse[1].translation == pytest.approx(moved)
    opened: Any = tinc_codec.open(dst)
    level = opened["0/data"]
    assert level.coords["z"].values[:2].tolist() == [8.0, 10.0]
    assert level.coords["x"].attrs["units"] == "micrometer"
    assert level.coords["c"].values.tolist() == ["c1"]
    assert np.array_equal(level.values[0], volume((2, *SHAPE))[1][ROI])


def test_an_unknown_voxel_size_is_not_made_up(npy: Path, dst: Path) -> None:
    run(plan(npy, dst, LOSSLESS, roi=ROI))
    block, _ = ome.split(zarr.open_group(dst, mode="r").attrs.asdict())
    image = block["multiscales"][0]
    scale, translation = image["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1, 1, 1]
    assert translation["translation"] == [4, 0, 9]
    assert not any("unit" in axis for axis in image["axes"])


def test_all_of_a_source_is_no_box(npy: Path, dst: Path) -> None:
    whole = plan(npy, dst, LOSSLESS)
    assert plan(npy, dst, LOSSLESS, roi=np.s_[:, 0:24, :28]).fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0:21,0:24,0:28", "0:21 is no range of voxels within 0:20, which axis z has"),
        ("5:5,:,:", "5:5 is no range"),
        (":,-3:4,:", "-3:4 is no range"),
        ("0:2,0:2,0:2,0:2", "1 to 3 ranges"),
        ("3,:,:", "--roi 3: not a range"),
        ("a:4,:,:", "--roi a: not a number"),
    ],
)
def test_boxes_that_are_none_are_refused_in_a_line(
    npy: Path, dst: Path, capsys: Any, text: str, said: str
) -> None:
    assert main(["convert", str(npy), str(dst), "--ratio", "16", "--roi", text]) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert [path.name for path in npy.parent.iterdir()] == ["source.npy"]


def test_boxes_of_files_with_large_chunks_are_staged_by_their_chunks(
    tmp_path: Path, dst: Path
) -> None:
    data = volume((40, 24, 28))
    zarr.create_array(tmp_path / "s.zarr", data=data, chunks=(16, 24, 28))
    made = plan(tmp_path / "s.zarr", dst, LOSSLESS, chunks=(4, 6, 7), roi=np.s_[13:40, 5:, 6:])
    assert made.levels[0].staged
    with open_source(made.levels[0].source) as source:
        assert source.preferred_region(np.s_[0:4, 0:6, 0:7]) == np.s_[0:19, 0:19, 0:22]
    run(made)
    assert np.array_equal(zarr.open_group(dst, mode="r")["data"][:], data[13:, 5:, 6:])


# Masks.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("roi", [None, ROI])
def test_outside_of_the_mask_is_0_and_chunks_of_it_are_not_stored(
    npy: Path, dst: Path, roi: Any, zarr_format: Any
) -> None:
    mask = ball(SHAPE)
    where = saved_mask(npy.parent, mask.astype(np.uint8) * 7)
    options: dict[str, Any] = {"zarr_format": zarr_format, "roi": roi}
    scores = convert(npy, dst, LOSSLESS, chunks=(4, 4, 4), mask=where, **options)
    box = roi or np.s_[:, :, :]
    expected = np.where(mask, np.load(npy), 0)[box]
    assert np.array_equal(zarr.open_group(dst, mode="r")["data"][:], expected)
    for chunk in scores.chunks:
        assert (chunk.form == "absent") == (not mask[box][chunk.region].any())
    assert any(chunk.form == "absent" for chunk in scores.chunks)
    assert verify(npy, dst).errors.max_error == 0


@pytest.mark.parametrize("shape", [(10, 12, 14), (20, 8, 9), (1, 7, 8, 10), (7, 5, 4)])
def test_masks_of_lower_resolution(npy: Path, dst: Path, shape: tuple[int, ...]) -> None:
    small = np.random.default_rng(0).random(shape) < 0.5
    convert(npy, dst, LOSSLESS, mask=saved_mask(npy.parent, small))
    inside = small.reshape(shape[-3:])
    for axis, n in enumerate(SHAPE):
        factor = round(n / inside.shape[axis])
        index = np.minimum(np.arange(n) // factor, inside.shape[axis] - 1)
        inside = inside.take(index, axis)
    expected = np.where(inside, np.load(npy), 0)
    assert np.array_equal(zarr.open_group(dst, mode="r")["data"][:], expected)


def test_a_mask_holds_for_all_channels_and_coarse_levels(tmp_path: Path, dst: Path) -> None:
    src, mask = ome_zarr(tmp_path, (1.0, 1.0, 1.0)), ball((10, 12, 14))
    run(plan(src, dst, LOSSLESS, levels=2, mask=saved_mask(tmp_path, mask)))
    fine, coarse = (zarr.open_group(dst, mode="r")[name][:] for name in "01")
    whole = mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(fine, np.where(whole, volume((2, *SHAPE)), 0))
    assert ((coarse != 0) == mask).all()


def test_where_the_mask_is_empty_the_source_is_not_read(npy: Path, dst: Path) -> None:
    class Unreadable(np.ndarray):
        def __getitem__(self, _: Any) -> Any:
            raise OSError("read")

    mask = np.zeros(SHAPE, bool)
    mask[:4] = True
    with open_source(plan(npy, dst, mask=saved_mask(npy.parent, mask)).levels[0].source) as source:
        array: Any = source.array
        assert source.read(np.s_[0:4, 0:9, 0:9]).any()
        object.__setattr__(array, "array", np.load(npy).view(Unreadable))
        with pytest.raises(OSError, match="read"):
            source.read(np.s_[3:9, 0:9, 0:9])
        assert not source.read(np.s_[4:9, 0:9, 0:9]).any()


@pytest.mark.parametrize(
    "shape", [(20, 24), (20, 24, 27), (21, 24, 28), (2, 20, 24, 28), (9, 9, 9)]
)
def test_masks_of_other_shapes_are_refused_in_a_line(
    npy: Path, dst: Path, capsys: Any, shape: tuple[int, ...]
) -> None:
    mask = saved_mask(npy.parent, np.ones(shape, bool))
    for command in (
        ["convert", str(npy), str(dst), "--ratio", "16", "--mask", str(mask)],
        ["estimate", str(npy), "--mask", str(mask)],
    ):
        assert main(command) == 1
        printed = capsys.readouterr().err
        assert f"has shape {shape}; it must have the source's axes of space" in printed
        assert "z 20, y 24, x 28" in printed
        assert printed.count("\n") == 1
    assert sorted(path.name for path in npy.parent.iterdir()) == ["mask.npy", "source.npy"]


def test_another_box_or_mask_is_refused_to_go_on_with(npy: Path, dst: Path) -> None:
    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    mask = saved_mask(npy.parent, ball(SHAPE))
    given: dict[str, Any] = {"chunks": (8, 8, 8), "roi": np.s_[0:16], "mask": mask}
    given["roi"] = np.s_[0:16, :, :]
    with pytest.raises(Stop):
        run(plan(npy, dst, LOSSLESS, **given), on_shard=stop)
    for change, named in (
        ({"roi": np.s_[1:17, :, :]}, r"roi 0:16,0:24,0:28 \(now 1:17,0:24,0:28\)\."),
        ({"mask": None}, r"mask \w+ \(now None\)\."),
    ):
        with pytest.raises(InvalidSetting, match=f"begun with something else: {named}"):
            run(plan(npy, dst, LOSSLESS, **{**given, **change}))
    np.save(mask, ~ball(SHAPE))
    with pytest.raises(InvalidSetting, match=r"begun with something else: mask \w+ \(now \w+\)\."):
        run(plan(npy, dst, LOSSLESS, **given))


def test_preserved_zeros_are_exact_outside_of_the_mask(npy: Path, dst: Path) -> None:
    mask = ball(SHAPE)
    where = saved_mask(npy.parent, mask)
    convert(npy, dst, Settings(ratio=8, effort=1, form="wavelet", preserve=(0,)), mask=where)
    decoded = zarr.open_group(dst, mode="r")["data"][:]
    assert not decoded[~mask].any()
    assert np.abs(decoded[mask].astype(int) - np.load(npy)[mask]).mean() < 5


def test_the_archive_may_not_be_in_its_mask(npy: Path, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "m.zarr", data=ball(SHAPE))
    with pytest.raises(InvalidSetting, match="overlap"):
        convert(npy, tmp_path / "m.zarr", LOSSLESS, mask=tmp_path / "m.zarr", overwrite=True)


def test_a_mask_that_has_moved_is_asked_for(npy: Path, dst: Path, capsys: Any) -> None:
    mask = saved_mask(npy.parent, ball(SHAPE))
    convert(npy, dst, Settings(**QUICK), mask=mask)
    moved = mask.rename(npy.parent / "moved.npy")
    assert main(["verify", str(npy), str(dst)]) == 1
    assert "--mask" in capsys.readouterr().err
    assert main(["verify", str(npy), str(dst), "--mask", str(moved)]) == 0


def test_workers_open_the_same_part(npy: Path, dst: Path, monkeypatch: Any) -> None:
    """What goes to a worker is the spec: with paths that do not depend on its folder."""
    mask = saved_mask(npy.parent, ball(SHAPE))
    monkeypatch.chdir(npy.parent)
    made = plan("source.npy", dst, LOSSLESS, roi=ROI, mask=mask.name)
    monkeypatch.chdir("/")
    with open_source(made.levels[0].source) as source:
        assert np.array_equal(source.read(np.s_[0:14, 0:24, 0:19]),
                              np.where(ball(SHAPE), np.load(npy), 0)[ROI])  # fmt: skip


def test_estimates_are_of_the_part(npy: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:10] = 1
    where = saved_mask(npy.parent, mask)
    found = estimate(npy, [16], Settings(effort=1), chunks=(10, 12, 14), roi=ROI, mask=where)
    assert found.shape == (14, 24, 19)
    assert found.empty_share > 0
