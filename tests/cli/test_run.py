"""``trlaunch run`` on the emulator, against NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trlaunch.arguments import parse_argument

ADD = (
    "--arg", "x_ptr=rand:float32:3000", "--arg", "y_ptr=randn:float32:3000:5",
    "--arg", "out_ptr=zeros:float32:3000", "--arg", "n_elements=2992",
)  # fmt: skip


def made(text: str, position: int) -> np.ndarray:
    return parse_argument(text).value(default_seed=position)


def test_the_saved_arrays_are_what_numpy_computes(cli, artifacts, tmp_path):
    found = cli("run", artifacts / "add_kernel.ptx", "--grid", "3", *ADD, "--save", tmp_path / "out.npz")
    assert found.code == 0, found.err
    with np.load(tmp_path / "out.npz") as archive:
        saved = dict(archive)
    assert sorted(saved) == ["out_ptr", "x_ptr", "y_ptr"]
    x, y = made("a=rand:float32:3000", 0), made("a=randn:float32:3000:5", 1)
    assert (saved["x_ptr"] == x).all()
    assert (saved["out_ptr"][:2992] == (x + y)[:2992]).all()
    assert (saved["out_ptr"][2992:] == 0).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifacts", "out.npz"]


def test_a_file_that_is_no_npz_is_kept(cli, artifacts):
    text = (artifacts / "add_kernel.ttir").read_bytes()
    found = cli("run", artifacts / "add_kernel.ptx", "--grid", "3", *ADD, "--save", artifacts / "add_kernel.ttir")
    assert found.code == 2
    assert "a file that is no .npz is there" in found.err
    assert (artifacts / "add_kernel.ttir").read_bytes() == text


def test_json_says_what_ran_and_what_changed(cli, artifacts):
    document = cli("run", artifacts / "add_kernel.ptx", "-g", "3", *ADD, "--repeat", "2", "--json").json
    assert document["kernel"] == "add_kernel"
    assert document["device"] == "emulator"
    assert document["level"] == "ptx"
    assert document["grid"] == [3]
    assert [a["argument"] for a in document["arguments"]] == ["x_ptr", "y_ptr", "out_ptr", "n_elements"]
    assert [a.get("changed") for a in document["arguments"]] == [False, False, True, None]
    assert len(document["repeats_s"]) == 2
    assert all(t > 0 for t in document["repeats_s"])


def test_the_table_has_a_row_for_each_argument(cli, artifacts):
    found = cli("run", artifacts / "add_kernel.ptx", "-g", "3", *ADD)
    for word in ("add_kernel", "emulator", "x_ptr", "n_elements", "3000", "rand:float32:3000"):
        assert word in found.out


def test_positions_and_files_do_as_well(cli, artifacts, tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 781), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    words = ["-a", "1=@" + str(tmp_path / "x.npy"), "-a", "0=zeros:fp32:4x781"]
    words += [word for i in (2, 3, 4) for word in ("-a", f"{i}=781")]
    found = cli("run", artifacts / "softmax_kernel.ptx", "-g", "4", *words, "--save", tmp_path / "out.npz")
    assert found.code == 0, found.err
    e = np.exp(x - x.max(axis=1, keepdims=True))
    with np.load(tmp_path / "out.npz") as saved:
        np.testing.assert_allclose(saved["out_ptr"], e / e.sum(axis=1)[:, None], rtol=1e-5)


def test_a_cubin_without_a_gpu_takes_the_ptx_beside_it_and_says_so(cli, artifacts):
    found = cli("run", artifacts / "add_kernel.cubin", "-g", "3", *ADD, "--json")
    assert found.code == 0, found.err
    assert found.json["level"] == "cubin"
    assert found.json["device"] == "emulator"
    assert "note: " in found.err
    assert "add_kernel.ptx beside it" in found.err


@pytest.mark.parametrize(
    "words,code,message",
    [
        (("-g", "3", *ADD[:6]), 1, "n_elements"),
        (("-g", "3", *ADD, "-a", "extra=3"), 1, "extra"),
        (("-g", "3", *ADD[:6], "-a", "n_elements=1.5"), 1, "n_elements"),
        (("-g", "3", *ADD[:6], "-a", "n_elements=4294967296"), 1, "n_elements"),
        (("-g", "3", *ADD, "-a", "n_elements=3"), 2, "given before"),
        (("-g", "3", *ADD, "-a", "3=3"), 2, "given before"),
        (("-g", "3", "-a", "x_ptr"), 2, "NAME=VALUE"),
        (("-g", "0", *ADD), 2, "positive"),
        (("-g", "3", *ADD, "--save", "no/such/folder/out.npz"), 2, "no folder"),
        (("-g", "3", *ADD, "--device", "tpu"), 3, "tpu"),
        (("-g", "3", *ADD, "--device", "cuda:0"), 3, ""),
        (("-g", "3", *ADD[:6], "-a", "n_elements=3056"), 4, "x_ptr"),
    ],
)
def test_what_cannot_run_is_one_block_on_stderr(cli, artifacts, words, code, message):
    found = cli("run", artifacts / "add_kernel.ptx", *words)
    assert found.code == code
    assert message in found.err
    assert "Traceback" not in found.err
    assert found.out == ""


def test_a_fault_says_where_in_json(cli, artifacts):
    document = cli("run", artifacts / "add_kernel.ptx", "-g", "3", *ADD[:6], "-a", "n_elements=3056", "--json").json
    assert document["error"]["type"] == "Fault"
    assert document["error"]["kind"] == "out-of-bounds"
    assert document["error"]["cta"] == [2, 0, 0]


def test_a_wrong_metadata_file_is_refused(cli, artifacts):
    metadata = json.loads((artifacts / "add_kernel.json").read_text()) | {"num_warps": 2}
    (artifacts / "wrong.json").write_text(json.dumps(metadata))
    found = cli("run", artifacts / "add_kernel.ptx", "-g", "3", *ADD, "-m", artifacts / "wrong.json", "--json")
    assert found.code == 1
    assert found.json["error"]["type"] == "CheckError"
    findings = found.json["error"]["report"]["findings"]
    assert "block" in [f["rule"] for f in findings if f["severity"] == "error"]
