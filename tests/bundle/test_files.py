"""Bundles as files: kernels come back as they were, and a device gets the entry that it runs."""

from __future__ import annotations

import ast
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import trlaunch
from tests.corpus import cases, find
from tests.corpus_hip import find as find_hip
from trlaunch import ArgumentError, ArtifactError, CheckError, FallbackWarning, Kernel, SignatureError, Target
from trlaunch.artifact import Level
from trlaunch.bundle import Entry, choose, header, load, save
from trlaunch.bundle.names import comment, identifier, string, unique
from trlaunch.cli import app
from trlaunch.driver import Device, DeviceProperties

SIXTEEN = [case for case in cases(release="3.6.0") if case.target == "cuda:80"]


@pytest.mark.parametrize("case", [*SIXTEEN, *cases(kernel="scalars_kernel", target="cuda:90")], ids=str)
def test_a_kernel_comes_back_as_it_was(case, tmp_path):
    kernel = Kernel.from_file(case.path("cubin"))
    again = Kernel.from_file(kernel.save(tmp_path / "k.trk", constants=case.constexprs))
    assert again.signature.params == kernel.signature.params
    assert (again.name, again.target, again.threads, again.shared) == (
        kernel.name, kernel.target, kernel.threads, kernel.shared,
    )  # fmt: skip
    assert again.metadata == kernel.metadata
    assert again.image.data == case.bytes("cubin")
    assert again.artifact.constants == dict(case.constexprs)
    assert not again.artifact.siblings
    assert "bundle" in again.signature.sources


def test_what_was_given_beside_the_files_is_in_the_bundle(tmp_path):
    case = find("3.6.0", "cuda:80", "softmax_kernel")
    shutil.copy(case.path("cubin"), tmp_path / "alone.cubin")  # no JSON, no text
    signature = {"out": "*fp32", "x": "*fp32", "a": "i32", "b": "i32", "n": "i32", "BLOCK": "constexpr"}
    kernel = Kernel.from_file(tmp_path / "alone.cubin", signature=signature, shared=16)
    again = Kernel.from_file(kernel.save(tmp_path / "k.trk"))
    assert [p.name for p in again.signature.user] == ["out", "x", "a", "b", "n"]
    assert again.shared == 16
    assert again.signature.params == kernel.signature.params
    with pytest.raises(SignatureError):
        Kernel.from_file(tmp_path / "k.trk", signature=["*fp32"])


def test_the_emulator_runs_the_ptx_in_a_bundle(tmp_path):
    case = find("3.6.0", "cuda:80", "add_kernel")
    path = Kernel.from_file(case.path("cubin")).save(tmp_path / "k.trk", texts=True)
    kernel = Kernel.from_file(path, device="emulator")
    n = 3008
    x = np.arange(n, dtype=np.float32)
    out = np.zeros(n, np.float32)
    (block,) = case.constexprs.values()
    with pytest.warns(FallbackWarning, match="executed by the emulator"):
        kernel.launch(-(-n // block), x, x, out, n)
    assert np.array_equal(out, x + x)
    small = Kernel.from_file(Kernel.from_file(case.path("cubin")).save(tmp_path / "s.trk"), device="emulator")
    with pytest.raises(ArtifactError, match=r"s\.trk holds a cubin without texts .*: bundle it with --texts"):
        small.launch(1, x, x, out, n)


def test_from_bytes_takes_a_bundle_and_metadata_beside_one_is_refused(tmp_path):
    path = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin")).save(tmp_path / "k.trk")
    (tmp_path / "k.json").write_text("{}")  # of something else
    assert Kernel.from_bytes(path.read_bytes()).name == "add_kernel"
    assert Kernel.from_file(path).metadata.num_warps == 4
    with pytest.raises(ArtifactError, match="leave metadata= out"):
        Kernel.from_file(path, tmp_path / "k.json")


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
    path = tmp_path / "k.trk"
    path.write_bytes(b"before")
    kernel.save(path)
    assert load(path).entries[0].kernel == "add_kernel"
    assert [p.name for p in tmp_path.iterdir()] == ["k.trk"]
    with pytest.raises(ArtifactError, match="cannot be written"):
        kernel.save(tmp_path / "no" / "k.trk")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(tmp_path / "none.trk")
    with pytest.raises(ArgumentError, match="expected a number, text, bool or None"):
        kernel.save(path, constants={"a": [1]})


@pytest.mark.parametrize("how", [lambda k, path: k.save(path), lambda k, path: header(k)])
def test_files_that_do_not_belong_together_are_not_bundled(tmp_path, how):
    case, other = find("3.6.0", "cuda:80", "softmax_kernel"), find("3.6.0", "cuda:90", "layer_norm_kernel")
    with pytest.raises(CheckError, match="its files do not belong together: .*metadata-target: .*name: "):
        how(Kernel.from_file(case.path("cubin"), other.path("json")), tmp_path / "k.trk")
    shutil.copy(case.path("cubin"), tmp_path / "alone.cubin")
    with pytest.raises(CheckError, match="how much dynamic shared memory the kernel needs is stated by Triton's JSON"):
        how(Kernel.from_file(tmp_path / "alone.cubin", signature="*fp32,*fp32,i32,i32,i32"), tmp_path / "k.trk")
    assert not (tmp_path / "k.trk").exists()


@pytest.mark.parametrize(
    "how", [lambda k, path, c: k.save(path, constants=c), lambda k, path, c: header(k, constants=c)]
)
def test_an_argument_of_the_launch_is_no_constant(tmp_path, how):
    kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
    expected = (
        r"constant x_ptr=3: expected a constexpr .* into add_kernel, found .*\(x_ptr, .*, n_elements\): leave it out"
    )
    with pytest.raises(ArgumentError, match=expected):
        how(kernel, tmp_path / "k.trk", {"BLOCK": 1024, "x_ptr": 3})
    with pytest.raises(ArgumentError, match="expected a number, text, bool or None"):
        how(kernel, tmp_path / "k.trk", {"BLOCK": [1]})
    assert not list(tmp_path.iterdir())
    pairs = Kernel.from_file(find("3.6.0", "cuda:80", "tuple_kernel").path("cubin"))
    name = next(p.name for p in pairs.signature.user if "." in p.name)
    for wrong in (name, name.partition(".")[0]):
        with pytest.raises(ArgumentError, match="expected a constexpr"):
            how(pairs, tmp_path / "k.trk", {wrong: 3})


# --- several targets -------------------------------------------------------------------------------------------------


def entry(target: str, level: Level = Level.CUBIN, **more: object) -> Entry:
    return Entry("k", Target.parse(target), level, b"", **more)


ENTRIES = [
    entry("cuda:80"), entry("cuda:86"), entry("cuda:90a"), entry("cuda:90"), entry("cuda:75", Level.PTX),
    entry("hip:gfx942", Level.HSACO), entry("hip:gfx90a:xnack+", Level.HSACO),
]  # fmt: skip


@pytest.mark.parametrize(
    "device,expected",
    [
        ("cuda:80", "cuda:80"), ("cuda:86", "cuda:86"), ("cuda:89", "cuda:86"), ("cuda:90", "cuda:90a"),
        ("cuda:100", "cuda:75"), ("cuda:75", "cuda:75"), ("hip:gfx942:sramecc+:xnack-", "hip:gfx942"),
        ("hip:gfx90a:sramecc+:xnack+", "hip:gfx90a:xnack+"),
    ],
)  # fmt: skip
def test_a_device_gets_what_it_runs(monkeypatch, device, expected):
    target = Target.parse(device)

    class One:
        def properties(self, ordinal):
            return DeviceProperties(Device(target.backend, ordinal), "a device", target)

    monkeypatch.setattr("trlaunch.bundle.choice.get", lambda name: One())
    assert str(choose(ENTRIES, f"{target.backend}:0").target) == expected


def test_a_device_that_runs_none_is_told_what_there_is(monkeypatch):
    class One:
        def properties(self, ordinal):
            return DeviceProperties(Device("cuda", ordinal), "a device", Target("cuda", "70"))

    monkeypatch.setattr("trlaunch.bundle.choice.get", lambda name: One())
    with pytest.raises(ArtifactError, match=r"k\.trk holds cuda:80, cuda:86.*cuda:0 \(a device\) is cuda:70"):
        choose(ENTRIES, "cuda:0", "k.trk")
    assert choose(ENTRIES, "emulator").target == Target("cuda", "75")
    with pytest.raises(ArtifactError, match="without PTX, and the emulator executes PTX"):
        choose(ENTRIES[:2], "emulator")
    assert choose(ENTRIES[:1], "emulator") is ENTRIES[0], "of one entry the audit says what is wrong"


def test_one_file_for_three_architectures(tmp_path, fakecuda):
    a = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
    b = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
    c = Kernel.from_file(find_hip("3.6.0", "hip:gfx942", "add_kernel").path("hsaco"))
    path = save(tmp_path / "k.trk", [a, b, c], texts=True)
    assert [x.level for x in load(path).artifacts()] == [Level.CUBIN, Level.CUBIN, Level.HSACO]
    assert Kernel.from_file(path, device="emulator").target == a.target
    recorded = fakecuda.run(
        f"""
        from trlaunch import Kernel, Pointer
        for device in ("cuda:0", "cuda:1"):
            Kernel.from_file({str(path)!r}, device=device).launch(2, *map(Pointer, (4096, 8192, 12288)), 32)
        """,
        devices=(90, 86),
    )
    assert [launch["hash"] for launch in recorded.of("cuLaunchKernelEx")] == [fnv(b.image.data), fnv(a.image.data)]
    with pytest.raises(ArtifactError, match="two for cuda:80"):
        save(tmp_path / "k.trk", [a, a])


def test_a_target_of_a_bundle_is_chosen_by_name(tmp_path):
    kernels = [Kernel.from_file(find("3.6.0", target, "add_kernel").path("cubin")) for target in ("cuda:80", "cuda:90")]
    path = save(tmp_path / "two.trk", kernels)
    for kernel, target in zip(kernels, ("cuda:80", Target.parse("cuda:90a")), strict=True):
        for again in (Kernel.from_file(path, target=target), Kernel.from_bytes(path.read_bytes(), target=target)):
            assert (again.target, again.image.data) == (kernel.target, kernel.image.data)
    with pytest.raises(ArtifactError, match=r"target='cuda:75': .* that two\.trk holds, cuda:80, cuda:90a"):
        Kernel.from_file(path, target="cuda:75")
    alone = kernels[0].save(tmp_path / "one.trk")
    with pytest.raises(ArtifactError, match=r"that one\.trk holds, cuda:80"):
        Kernel.from_file(alone, target="cuda:90")
    with pytest.raises(ArgumentError, match="target= and options= are for levels above PTX"):
        Kernel.from_file(path, target="cuda:80", options={"num_warps": 8})
    with pytest.raises(ArgumentError, match="target= and options= are for levels above PTX"):
        Kernel(load(alone).artifact(), target="cuda:90")


def fnv(data: bytes) -> int:
    from tests.fakecuda.inside import fnv1a

    return fnv1a(data)


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,expected",
    [
        ("x", "x"), ("class", "class_"), ("a.b", "a_b"), ("_Z3fooPf", "Z3fooPf"), ("7up", "argument_7up"),
        ("\xe9", "argument"), ("NULL", "NULL_"), ("x__y", "x_y"), ("_", "argument"),
    ],
)  # fmt: skip
def test_names_become_identifiers(text, expected):
    assert identifier(text, "argument") == expected


@given(st.text())
def test_whatever_a_name_is_it_becomes_an_identifier(text):
    found = identifier(text, "argument")
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", found)
    assert "__" not in found


@given(st.text())
def test_whatever_a_text_is_it_stays_in_its_literal_and_its_comment(text):
    assert ast.literal_eval(string(text)).encode("latin-1") == text.encode()
    shown = comment(text)
    assert shown.isascii()
    assert shown.isprintable() or not shown
    assert "*/" not in shown
    assert "/*" not in shown


def test_texts_become_c():
    assert unique(["a", "a", "stream", "a_2"], ["stream"]) == ["a", "a_2", "stream_2", "a_2_2"]
    assert string('a"\\?\n') == '"a\\042\\134\\077\\012"'
    assert comment("x */ /* y\n\xe9") == "x * / / * y \\xe9"


def test_a_header_needs_a_binary_and_types(tmp_path):
    case = find("3.6.0", "cuda:80", "softmax_kernel")
    with pytest.raises(ArgumentError, match="trlaunch lower FILE --to cubin"):
        header(Kernel.from_file(case.path("ptx")))
    shutil.copy(case.path("cubin"), tmp_path / "alone.cubin")
    shutil.copy(case.path("json"), tmp_path / "alone.json")
    with pytest.raises(SignatureError, match="a header needs its type; give signature="):
        header(Kernel.from_file(tmp_path / "alone.cubin"))
    text = header(Kernel.from_file(tmp_path / "alone.cubin", signature="*fp32,*fp32,i32,i32,i32"), constants={"B": 64})
    assert " *   B = 64\n" in text
    assert f"num_warps {case.metadata['num_warps']}" in text
    assert header(Kernel.from_file(case.path("cubin")), prefix="my kernel").count("my_kernel_launch(") == 2


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(tmp_path, monkeypatch):
    case = find("3.6.0", "cuda:80", "add_kernel")
    for level in ("cubin", "json", "ptx", "ttir"):
        shutil.copy(case.path(level), tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [*arguments])


def test_the_command_writes_both(cli, tmp_path):
    done = cli("bundle", "add_kernel.cubin", "add_kernel.json", "-o", "k.trk", "--texts", "-c", "BLOCK=1024", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["targets"] == ["cuda:80"]
    found = load(tmp_path / "k.trk").entries[0]
    assert found.constants == {"BLOCK": 1024}
    assert set(found.texts) == {Level.PTX, Level.TTIR}
    assert cli("bundle", "add_kernel.cubin", "-o", "k.h", "--prefix", "mine").exit_code == 0
    assert "mine_launch(" in (tmp_path / "k.h").read_text()
    assert cli("bundle", "k.trk", "-o", "again.h").exit_code == 0
    shown = json.loads(cli("inspect", "k.trk", "--json").stdout)
    assert shown["constants"] == {"BLOCK": 1024}
    assert [p["name"] for p in shown["kernels"][0]["params"]][:4] == ["x_ptr", "y_ptr", "out_ptr", "n_elements"]


def test_the_command_takes_no_argument_of_the_launch_as_a_constant(cli, tmp_path):
    for out in ("k.trk", "k.h"):
        done = cli("bundle", "add_kernel.cubin", "-o", out, "--constant", "x_ptr=3")
        assert done.exit_code == 1
        assert "constant x_ptr=3: expected a constexpr" in " ".join(done.stderr.split())
        assert not (tmp_path / out).exists()


def test_inspect_shows_every_target_of_a_bundle(cli, tmp_path):
    shutil.copy(find("3.6.0", "cuda:90", "add_kernel").path("cubin"), tmp_path / "other.cubin")
    shutil.copy(find("3.6.0", "cuda:90", "add_kernel").path("json"), tmp_path / "other.json")
    assert cli("bundle", "add_kernel.cubin", "other.cubin", "-o", "k.trk").exit_code == 0
    shown = json.loads(cli("inspect", "k.trk", "--json").stdout)
    assert [one["target"] for one in shown["entries"]] == ["cuda:80", "cuda:90a"]
    text = cli("inspect", "k.trk").stdout
    assert text.count("add_kernel") >= 2


def test_a_bundle_of_several_targets_is_bundled_anew(cli, tmp_path):
    for level in ("cubin", "json", "ptx", "ttir"):
        shutil.copy(find("3.6.0", "cuda:90", "add_kernel").path(level), tmp_path / f"other.{level}")
    assert cli("bundle", "add_kernel.cubin", "other.cubin", "-o", "k.trk", "--texts").exit_code == 0
    assert cli("bundle", "k.trk", "-o", "again.trk").exit_code == 0
    assert (tmp_path / "again.trk").read_bytes() == (tmp_path / "k.trk").read_bytes()
    done = cli("bundle", "k.trk", "-o", "k.h")
    assert done.exit_code == 2
    assert "k.trk holds cuda:80, cuda:90a: a header takes one; choose it with --target" in done.stderr
    done = cli("bundle", "k.trk", "-o", "k.h", "--target", "cuda:75")
    assert done.exit_code == 2
    assert "--target 'cuda:75': expected one of cuda:80, cuda:90a" in done.stderr
    for target, source in (("cuda:80", "add_kernel"), ("cuda:90a", "other")):
        for suffix in ("h", "trk"):
            out = f"{source}_one.{suffix}"
            done = cli("bundle", "k.trk", "-o", out, "--target", target, "--json")
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["targets"] == [target]
        (entry,) = load(tmp_path / f"{source}_one.trk").entries
        assert entry.data == (tmp_path / f"{source}.cubin").read_bytes()
        assert entry.texts[Level.PTX] == (tmp_path / f"{source}.ptx").read_bytes()


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (["add_kernel.cubin", "-o", "no/dir/k.trk"], "there is no folder 'no/dir'"),
        (["add_kernel.cubin", "-o", "no/dir/k.h"], "there is no folder 'no/dir'"),
        (["add_kernel.cubin", "-o", "k.txt"], "expected a name that ends in .trk"),
        (["add_kernel.json", "add_kernel.cubin", "-o", "k.trk"], "expected the binary that this JSON belongs to"),
        (["add_kernel.cubin", "add_kernel.ptx", "-o", "k.h"], "a header takes one"),
        (["add_kernel.cubin", "-o", "k.h", "--texts"], "--texts is for a .trk"),
        (["add_kernel.cubin", "-o", "k.trk", "--prefix", "x"], "--prefix is for a header"),
        (["add_kernel.cubin", "-o", "k.trk", "-c", "BLOCK"], "--constant 'BLOCK': expected NAME=VALUE"),
        (["add_kernel.cubin", "-o", "there.trk"], "--force writes over it"),
    ],
)
def test_the_command_says_what_is_wrong(cli, tmp_path, arguments, expected):
    (tmp_path / "there.trk").write_bytes(b"")
    done = cli("bundle", *arguments)
    assert done.exit_code == 2
    assert expected in done.stderr


def test_a_damaged_bundle_is_refused_by_every_command(cli, tmp_path):
    assert cli("bundle", "add_kernel.cubin", "-o", "k.trk").exit_code == 0
    data = (tmp_path / "k.trk").read_bytes()
    (tmp_path / "k.trk").write_bytes(data[: len(data) // 2])
    for command in (["inspect", "k.trk"], ["check", "k.trk"], ["run", "k.trk", "--grid", "1"]):
        done = cli(*command)
        assert done.exit_code == 1
        assert "k.trk is torn: expected" in done.stderr
    assert trlaunch.bundle.VERSION == 1
