"""Compile by ``triton.compile``, then start again from the text of every level by `trlaunch.lower`, and compare.

Run in the environment of one release, which prints one JSON document::

    python -m tests.matrix.restarting [part of a kernel's title]
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.matrix.forking import in_process, silenced
from trlaunch.artifact import Artifact
from trlaunch.errors import LoweringError
from trlaunch.lowering import lower
from trlaunch.lowering.triton_compiler import Compiler, release
from trlaunch.target import Target

TARGETS = (80, 90)
ASSEMBLED = (75, 86, 100, 120)  # compiled and compared, run nowhere
LEVELS = ("ttir", "ttgir", "llir", "ptx")
ATTEMPTS = 16


@dataclass(frozen=True)
class Subject:
    """A kernel with the types, constants and options it is compiled for; `case` is `generate.Case`."""

    title: str
    case: Any
    function: Any
    targets: tuple[int, ...] = (*TARGETS, *ASSEMBLED)


def generator() -> ModuleType:
    """``tests/fixtures/generate.py``, which knows how each release wants its kernels described."""
    file = Path(__file__).parents[1] / "fixtures" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["generate"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def subjects(number: tuple[int, int]) -> list[Subject]:
    """The kernels that this release has a language for."""
    generate = generator()
    kernels, own = generate.load_kernels(), importlib.import_module("tests.matrix.kernels")
    found = {case.name: case for case in generate.cases(number)}
    of_corpus = {
        "add": "add_kernel",
        "softmax": "softmax_kernel",
        "layer norm": "layer_norm_kernel",
        "matmul": "matmul_kernel",
        "TMA matmul, host descriptors": "tma_matmul_kernel",
    }
    listed = [Subject(t, found[name], getattr(kernels, found[name].function)) for t, name in of_corpus.items()]
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), "*fp16")
    sizes = {"scale": "fp32", "n_rows": ("i32", 112), "head_stride": ("i32", 7168)}
    attention = generate.Case(
        "attention_kernel",
        "attention_kernel",
        {**pointers, **sizes, "BLOCK_M": 64, "BLOCK_N": 32, "HEAD": 64},
        grid="",
        options={"num_warps": 4, "num_stages": 2},
    )
    listed.insert(4, Subject("flash attention", attention, own.attention_kernel))
    if number >= (3, 3):
        size = ("i32", 512)
        device = generate.Case(
            "device_tma_matmul_kernel",
            "device_tma_matmul_kernel",
            {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp16", "M": size, "N": size, "K": size}
            | {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64},
            grid="",
            options={"num_warps": 4, "num_stages": 3},
        )
        listed.append(Subject("TMA matmul, device descriptors", device, own.device_tma_matmul_kernel))
    if number >= (3, 4):
        descriptors = dict.fromkeys(("a_desc", "b_desc", "c_desc"), "tensordesc<fp16[128, 64]>")
        size = ("i32", 512)
        specialised = generate.Case(
            "specialised_matmul_kernel",
            "specialised_matmul_kernel",
            {**descriptors, "b_desc": "tensordesc<fp16[64, 128]>", "c_desc": "tensordesc<fp16[128, 128]>"}
            | {"M": size, "N": size, "K": size, "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64},
            grid="",
            options={"num_warps": 4, "num_stages": 3},
        )
        # Triton specialises warps for sm_100; for sm_90 it fails over this kernel.
        listed.append(Subject("warp-specialised matmul", specialised, own.specialised_matmul_kernel, (100,)))
    return listed


def compiled(subject: Subject, capability: int, folder: Path, number: tuple[int, int]) -> Path:
    """Compile by ``triton.compile``; the kernel's files lie in the folder, and the stem's path is returned."""
    import triton
    from triton.backends.compiler import GPUTarget

    source, _ = sys.modules["generate"].make_source(subject.function, subject.case.arguments, number)
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    options = {"enable_fp_fusion": True, **subject.case.options}
    triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return next(folder.rglob(f"{subject.case.function}.ptx")).with_suffix("")


def instructions(cubin: bytes) -> dict[str, bytes]:
    """The sections of code in a cubin."""
    from elftools.elf.elffile import ELFFile

    return {s.name: s.data() for s in ELFFile(io.BytesIO(cubin)).iter_sections() if s.name.startswith(".text")}


def assembled_anew(ptx: Path) -> dict[str, bytes]:
    """The code that the release's ptxas gives for a text, not taken from the cache."""
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"
    try:
        return instructions(lower(ptx, "cubin").data)
    finally:
        del os.environ["TRITON_ALWAYS_COMPILE"]


def said(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what is the machine's: where libraries lie, Triton's hash over that, environment variables."""
    return {k: v for k, v in metadata.items() if k not in ("hash", "extern_libs") and not k.isupper()}


def restarted(stem: Path) -> tuple[str, bool]:
    """What differs from what ``triton.compile`` gave, level by level, and whether ptxas is steady.

    For sm_100 ptxas 12.9 to 13.4 gives one of several codes for one text, run by run: there the code must be one of
    those.
    """
    ptx, expected = stem.with_suffix(".ptx").read_text(), instructions(stem.with_suffix(".cubin").read_bytes())
    stated = said(json.loads(stem.with_suffix(".json").read_text()))
    wrong, codes = [], [expected]
    for level in LEVELS:
        source = Artifact.from_file(stem.with_suffix(f".{level}"))
        if level != "ptx" and lower(source, "ptx").text != ptx:
            wrong.append(f"{level}: other PTX")
        result = lower(source, "cubin")
        made = instructions(result.data)
        if said(result.metadata.raw) != stated:
            wrong.append(f"{level}: other metadata")
        attempts = ATTEMPTS
        while made not in codes and attempts:
            codes.append(assembled_anew(stem.with_suffix(".ptx")))
            attempts -= 1
        if made not in codes:
            wrong.append(f"{level}: other code")
    return "; ".join(wrong), all(code == expected for code in codes)


def one(subject: Subject, capability: int, number: tuple[int, int]) -> dict[str, Any]:
    """One cell of the table: ``compile``, ``restart`` and ``run`` with what is wrong in each, ``""`` where nothing."""
    with tempfile.TemporaryDirectory() as folder:
        stem = compiled(subject, capability, Path(folder), number)
        wrong, steady = restarted(stem)
        result: dict[str, Any] = {"compile": "", "restart": wrong, "steady": steady}
        if capability == 80:
            from tests.matrix.launches import right

            result["run"] = right(subject.title, lower(stem.with_suffix(".ttir"), "ptx"))
        return result


def refused(subject: Subject, capability: int, number: tuple[int, int]) -> str:
    """How `lower` answers where the release cannot: its refusal, from the TTIR that the release makes for cuda:90."""
    with tempfile.TemporaryDirectory() as folder:
        stem = compiled(subject, 90, Path(folder), number)
        try:
            lower(stem.with_suffix(".ttir"), "cubin", f"cuda:{capability}")
        except LoweringError as error:
            return f"refused: {str(error).splitlines()[0][:120]}"
    return "not refused"


def run(only: str = "") -> dict[str, Any]:
    """Every kernel for every target; or those whose title has `only` in it."""
    # Once, before the forks: Triton's compiler and LLVM in the state that they have from the second kernel on.
    Compiler(Target("cuda", "80"), {"enable_fp_fusion": True}).prepare_llvm()
    number = tuple(int(part) for part in release().split(".")[:2])
    cells = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRLAUNCH_CACHE_DIR"] = cache
        for subject in (s for s in subjects(number) if only in s.title):
            for capability in subject.targets:
                with silenced():
                    if capability >= 100 and number < (3, 3):  # triton.compile would abort
                        how, value = in_process(lambda s=subject, c=capability: {"compile": refused(s, c, number)})
                    else:
                        how, value = in_process(lambda s=subject, c=capability: one(s, c, number))
                if how != "done":
                    lines = [line for line in str(value).splitlines() if line.strip()] or [how]
                    value = {"compile": f"{how}: {lines[0][:200]}"}
                cells.append({"kernel": subject.title, "target": f"cuda:{capability}", **value})
    return {"release": release(), "cells": cells}


if __name__ == "__main__":
    json.dump(run(*sys.argv[1:2]), sys.stdout, indent=1)
