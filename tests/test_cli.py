from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from volumes import volume

import tinc_codec
from tinc_codec import archive
from tinc_codec.archive import ome
from tinc_codec.archive.payloads import payloads
from tinc_codec.cli import main
from tinc_codec.metrics import errors

FAST = ("--ratio", "16", "--effort", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with one small volume, source.npy."""
    monkeypatch.chdir(tmp_path)
    np.save("source.npy", volume((16, 16, 20)))
    return tmp_path


def ok(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments, status=1):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tinc: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("zarr_format", ["2", "3"])
def test_convert_info_verify(here, capsys, zarr_format):
    out = ok(capsys, "convert", "source.npy", "a.zarr", *FAST, "--zarr-format", zarr_format)
    assert "a.zarr: 1 chunk," in out
    assert "PSNR" in out
    assert xr.open_zarr("a.zarr")["data"].shape == (16, 16, 20)

    out = ok(capsys, "info", "a.zarr")
    for expected in (f"zarr v{zarr_format}", "16×16×20 uint16", "ratio=16", "source.npy", "1 "):
        assert expected in out

    out = ok(capsys, "verify", "source.npy", "a.zarr")
    for expected in ("worst of 1 chunks", "0:16,0:16,0:20", "PSNR", "SSIM", "maximum error"):
        assert expected in out


def test_progress_is_plain_lines_off_a_terminal(here, capsys):
    options = ["--chunks", "16,16,10", "--shards", "16,16,10", "--workers", "1"]
    assert main(["convert", "source.npy", "a.zarr", *FAST, *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["encoding 1/2 shards", "encoding 2/2 shards"]
    assert all("ratio" in line and "PSNR" in line and " left" in line for line in lines)


def test_lines_are_of_this_run_alone(here, capsys):
    options = ["--chunks", "16,16,5", "--shards", "16,16,5", "--workers", "1"]
    command = ["convert", "source.npy", "a.zarr", *FAST, *options]
    assert main([*command, "--partition", "1/2"]) == 0
    capsys.readouterr()
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["encoding 3/4 shards", "encoding 4/4 shards"]


def test_progress_is_a_bar_on_a_terminal(here, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--chunks", "16,16,10", "--shards", "16,16,10", "--workers", "1"]
    assert main(["convert", "source.npy", "a.zarr", *FAST, *options]) == 0
    shown = capsys.readouterr().err
    assert "\x1b[" in shown
    assert "2/2" in shown
    assert "PSNR" in shown


def test_many_chunks_make_about_twenty_lines(here, capsys):
    np.save("many.npy", np.zeros((500,), np.uint8))
    zarr.create_array("many.zarr", data=np.zeros((500,), np.uint8), chunks=(1,))
    ok(capsys, "verify", "many.npy", "many.zarr")
    main(["verify", "many.npy", "many.zarr"])
    assert len(capsys.readouterr().err.splitlines()) == 20


def test_settings_reach_the_archive(here, capsys):
    options = ["--tree-levels", "1", "--level-ratio", "0.5", "--allocation", "even", "--seed", "7"]
    options += ["--preserve", "3,8.0", "--chunks", "8,16,20"]
    ok(capsys, "convert", "source.npy", "a.zarr", *FAST, *options)
    array = zarr.open_group("a.zarr", mode="r")["data"]
    settings = array.attrs["tinc_codec"]["settings"]
    assert (settings["levels"], settings["level_ratio"], settings["seed"]) == (1, 0.5, 7)
    assert (settings["allocation"], settings["preserve"]) == ("even", [3, 8.0])
    assert array.chunks == (8, 16, 20)


def test_a_psnr_is_reached_in_each_chunk(here, capsys):
    options = ["--psnr", "32", "--effort", "1", "--form", "wavelet", "--chunks", "16,16,10"]
    out = ok(capsys, "convert", "source.npy", "a.zarr", *options, "--dry-run")
    assert "PSNR 32 dB" in out
    ok(capsys, "convert", "source.npy", "a.zarr", *options)
    array = zarr.open_group("a.zarr", mode="r")["data"]
    settings = array.attrs["tinc_codec"]["settings"]
    assert (settings["psnr"], settings["form"]) == (32, "wavelet")
    assert "ratio" not in settings
    original = np.load("source.npy")
    for half in (np.s_[:, :, :10], np.s_[:, :, 10:]):
        assert errors(original[half], array[half]).psnr() >= 32


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--ratio", "ratio 8"),
        ("--psnr", "PSNR 8 dB"),
        ("--rmse", "RMSE 8"),
        ("--max-error", "maximum error 8"),
    ],
)
def test_a_plan_names_its_target(here, capsys, option, says):
    assert says in ok(capsys, "convert", "source.npy", "a.zarr", option, "8", "--dry-run")
    assert not Path("a.zarr").exists()


def test_an_rmse_is_held_by_each_chunk(here, capsys):
    options = ["--rmse", "8", "--effort", "1", "--form", "wavelet", "--chunks", "16,16,10"]
    ok(capsys, "convert", "source.npy", "a.zarr", *options)
    array = zarr.open_group("a.zarr", mode="r")["data"]
    assert array.attrs["tinc_codec"]["settings"]["rmse"] == 8
    original = np.load("source.npy")
    for half in (np.s_[:, :, :10], np.s_[:, :, 10:]):
        assert errors(original[half], array[half]).rmse <= 8
    ok(capsys, "verify", "source.npy", "a.zarr")
    told = ok(capsys, "estimate", "source.npy", "--rmse", "8", "--effort", "1")
    assert "rmse=8" in told


@pytest.mark.parametrize("bound", [0, 3])
def test_a_maximum_error_holds_for_each_voxel(here, capsys, bound):
    ok(capsys, "convert", "source.npy", "a.zarr", "--max-error", f"{bound}", "--effort", "1")
    ok(capsys, "verify", "source.npy", "a.zarr")
    decoded = zarr.open_group("a.zarr", mode="r")["data"][:].astype(int)
    assert np.abs(decoded - np.load("source.npy")).max() <= bound


def test_device_and_threads_are_run_time_matters(here, capsys):
    ok(capsys, "convert", "source.npy", "a.zarr", *FAST, "--threads", "1", "--device", "cpu")
    text = (here / "a.zarr/data/zarr.json").read_text()
    assert "threads" not in text
    assert "device" not in text
    message = refused(capsys, "convert", "source.npy", "b.zarr", *FAST, "--device", "abacus")
    assert "device='abacus'" in message


def test_tiff_and_zarr_sources(here, capsys):
    stack = volume((16, 16, 20))
    tifffile.imwrite("s.tif", stack, compression="zlib")
    zarr.create_array("s.zarr", data=stack)
    for source in ("s.tif", "s.zarr"):
        ok(capsys, "convert", source, f"{source}.tinc.zarr", *FAST)
        assert "PSNR" in ok(capsys, "verify", source, f"{source}.tinc.zarr")


def test_does_not_overwrite_unasked(here, capsys):
    ok(capsys, "convert", "source.npy", "a.zarr", *FAST)
    assert "complete already" in ok(capsys, "convert", "source.npy", "a.zarr", *FAST)
    others = "--seed", "7"
    assert "--overwrite" in refused(capsys, "convert", "source.npy", "a.zarr", *FAST, *others)
    ok(capsys, "convert", "source.npy", "a.zarr", *FAST, "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("convert", "no.npy", "a.zarr", *FAST), "no.npy: No such file"),
        (("convert", "text.txt", "a.zarr", *FAST), "text.txt is of no kind known here"),
        (("convert", "broken.npy", "a.zarr", *FAST), "broken.npy cannot be read"),
        (("convert", "bool.npy", "a.zarr", *FAST), "bool"),
        (("convert", "source.npy", "a.zarr", "--ratio", "0.5"), "ratio=0.5 must be"),
        (("convert", "source.npy", "a.zarr", "--ratio", "5000"), "ratio"),
        (("convert", "source.npy", "a.zarr", *FAST, "--psnr", "40"), "at most one target"),
        (("convert", "source.npy", "a.zarr", "--psnr", "0"), "psnr=0"),
        (("convert", "source.npy", "a.zarr", "--psnr", "40", "--form", "tree"), "takes a ratio"),
        (("convert", "source.npy", "a.zarr", *FAST, "--form", "cube"), "form='cube'"),
        (("convert", "source.npy", "a.zarr", *FAST, "--chunks", "8,x"), "--chunks x: not a"),
        (("convert", "source.npy", "a.zarr", *FAST, "--chunks", "8,auto"), "--chunks auto: not a"),
        (("convert", "source.npy", "a.zarr", *FAST, "--chunks", "1,2,3,4"), "chunks=1,2,3,4"),
        (("convert", "source.npy", "a.zarr", *FAST, "--tree-levels", "deep"), "--tree-levels deep"),
        (("convert", "source.npy", "a.zarr", *FAST, "--tree-levels", "9"), "--tree-levels 9 must"),
        (("convert", "source.npy", "a.zarr", *FAST, "--partition", "3"), "--partition 3: give I/N"),
        (
            ("convert", "source.npy", "a.zarr", *FAST, "--partition", "3/2"),
            "--partition 3/2 must be",
        ),
        (
            ("convert", "source.npy", "a.zarr", *FAST, "--partition", "0/2"),
            "--partition 0/2 must be",
        ),
        (("convert", "source.npy", "text.txt", *FAST, "--overwrite"), "not a zarr folder"),
        (("convert", "source.npy", "text.txt/a.zarr", *FAST), "text.txt"),
        (("info", "."), "neither a zarr array nor a zarr group"),
        (("info", "source.npy"), "not a zarr archive"),
        (("info", "plain.zarr/nothing"), "No such file"),
        (("verify", "source.npy", "plain.zarr"), "not the same volume"),
    ],
)
def test_errors_are_one_line(here, capsys, arguments, expected):
    (here / "text.txt").write_text("no volume")
    (here / "broken.npy").write_bytes(b"\x93NUMPY broken")
    np.save("bool.npy", np.zeros((8, 8), bool))
    zarr.create_array("plain.zarr", data=np.zeros((3, 3)))
    assert expected in refused(capsys, *arguments)
    assert not (here / "a.zarr").exists()
    assert not (here / "a.zarr.partial").exists()


def test_a_mistake_in_the_program_keeps_its_traceback(here, monkeypatch):
    def mistaken(path):
        return {}["shape"]

    monkeypatch.setattr(archive, "info", mistaken)
    with pytest.raises(KeyError, match="shape"):
        main(["info", "source.npy"])


def test_what_a_group_names_and_does_not_hold_is_one_line(here, capsys):
    image = ome.image_attributes(ome.grid("zyx"), [("0", (1, 1, 1))], 3)
    zarr.create_group("a.zarr", attributes=image)
    assert "a.zarr cannot be opened as zarr: '0'" in refused(capsys, "info", "a.zarr")


def test_an_archive_that_does_not_tell_all_of_its_making_is_not_taken_for_complete(here, capsys):
    ok(capsys, "convert", "source.npy", "a.zarr", *FAST)
    metadata = here / "a.zarr/data/zarr.json"
    metadata.write_text(metadata.read_text().replace('"stored_bytes"', '"bytes"'))
    assert "--overwrite" in refused(capsys, "convert", "source.npy", "a.zarr", *FAST)


@pytest.mark.parametrize(
    "arguments",
    [("convert",), ("nope",), ("convert", "a", "b", "--ratio", "x"), ("info", "--what", "a")],
)
def test_wrong_usage_is_one_line_and_status_2(here, capsys, arguments):
    refused(capsys, *arguments, status=2)


def test_convert_needs_a_target(here, capsys):
    message = refused(capsys, "convert", "source.npy", "a.zarr", status=2)
    assert "one of --ratio, --psnr, --rmse, --ssim and --max-error" in message


def test_damaged_chunks_are_named_in_one_line(here, capsys):
    ok(capsys, "convert", "source.npy", "a.zarr", "--chunks", "8,10,12", *FAST)
    array = zarr.open_group("a.zarr", mode="r")["data"]
    positions = list(
        np.ndindex(*(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)))
    )
    chosen, path = [positions[1], positions[-1]], here / "a.zarr/data/c/0/0/0"
    whole = path.read_bytes()
    for payload in payloads(array, chosen):
        at = whole.index(payload) + len(payload) // 2
        whole = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    path.write_bytes(whole)
    assert main(["verify", "source.npy", "a.zarr"]) == 1
    *progress, message = capsys.readouterr().err.splitlines()
    assert len(progress) == len(positions) - 2  # all others have been compared
    assert message.startswith("tinc: ")
    assert f"2 of {len(positions)} chunks are damaged or lost" in message
    assert message.count("CRC32C") == 2
    for where in chosen:
        edges = zip(where, array.chunks, array.shape, strict=True)
        region = ",".join(f"{k * c}:{min(k * c + c, n)}" for k, c, n in edges)
        assert f"{region} (" in message


@pytest.mark.parametrize("form", ["2", "3"])
def test_lost_chunks_are_named_and_those_of_fill_value_are_not_lost(here, capsys, form):
    data = volume((24, 20, 28))
    data[:8] = 0
    np.save("half.npy", data)
    shards = ["--shards", "8,20,28"] if form == "3" else ["--zarr-format", "2"]
    ok(capsys, "convert", "half.npy", "a.zarr", "--chunks", "8,20,28", *shards, *FAST)
    ok(capsys, "verify", "half.npy", "a.zarr")
    (here / ("a.zarr/data/c/1/0/0" if form == "3" else "a.zarr/data/1/0/0")).unlink()
    assert main(["verify", "half.npy", "a.zarr"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 3 chunks are damaged or lost: 8:16,0:20,0:28 (not stored" in message
    assert "lost" in ok(capsys, "info", "a.zarr")


def test_chunks_of_a_damaged_shard_are_named_beside_those_of_others(here, capsys):
    shards = ["--chunks", "8,16,10", "--shards", "8,16,20"]
    ok(capsys, "convert", "source.npy", "a.zarr", *shards, *FAST)
    shard = here / "a.zarr/data/c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-30])
    assert main(["verify", "source.npy", "a.zarr"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 4 chunks are damaged or lost" in message
    assert "the index of shard data/c/1/0/0 is damaged" in message


@pytest.mark.parametrize("name", ["back.npy", "back.tif", "back.nii.gz"])
def test_an_archive_is_not_called_as_files_of_other_formats_are(here, capsys, name):
    assert "a name that ends in .zarr" in refused(capsys, "convert", "source.npy", name, *FAST)
    assert not list(here.glob("back*"))


def test_version_and_help(capsys):
    import tinc_codec

    assert ok(capsys, "--version") == f"tinc_codec {tinc_codec.__version__}\n"
    assert "convert" in ok(capsys, "--help")
    assert main([]) == 2
    assert "convert" in capsys.readouterr().out


def test_demo(here, capsys):
    out = ok(capsys, "demo", "--out", "d", "--size", "24", "--ratio", "16", "--effort", "1")
    for expected in ("ratio", "PSNR", "SSIM", "encoding", "once more", "decoding"):
        assert expected in out
    original, decoded = np.load("d/phantom.npy"), xr.open_zarr("d/phantom.zarr")["data"]
    assert decoded.shape == original.shape == (24, 24, 24)
    assert (here / "d/slice.png").read_bytes().startswith(b"\x89PNG")
    ok(capsys, "demo", "--out", "d", "--size", "16", "--ratio", "16", "--effort", "1")  # replaces


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_is_status_130_and_can_be_gone_on_from(here, workers):
    # Seconds of work, so that the interrupt comes before the end.
    np.save("long.npy", volume((64, 64, 128)))
    command = [
        sys.executable,
        "-c",
        "import sys; from tinc_codec.cli import main; sys.exit(main())",
    ]
    arguments = ["convert", "long.npy", "a.zarr", "--ratio", "16", "--effort", "2"]
    arguments += ["--chunks", "16,16,16", "--shards", "16,16,32", "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (here / "a.zarr.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: workers, too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("tinc: interrupted; run the same command to go on\n")
    assert "Traceback" not in errors
    assert not (here / "a.zarr").exists()
    assert main(arguments) == 0
    assert sorted(os.listdir(here)) == ["a.zarr", "long.npy", "source.npy"]


def test_a_missing_extra_is_one_line_with_the_remedy():
    code = "import sys; sys.modules['typer'] = None; import tinc_codec.cli"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert "pip install 'tinc_codec[archive]'" in found.stderr


def test_labels_need_no_target(here, capsys):
    ok(capsys, "convert", "source.npy", "a.zarr", "--labels")
    assert tinc_codec.open("a.zarr").attrs["tinc_codec"]["settings"]["max_error"] == 0
    np.testing.assert_array_equal(tinc_codec.open("a.zarr").values, np.load("source.npy"))


def test_wrong_usage_names_the_command_that_tells_more(here, capsys):
    assert main(["convert", "source.npy", "a.zarr", "--no-such"]) == 2
    assert "(tinc convert --help tells more)" in capsys.readouterr().err
    assert main(["no-such"]) == 2
    assert "(tinc --help tells more)" in capsys.readouterr().err
