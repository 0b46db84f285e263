"""The tables of ``docs/compatibility.md`` from what the releases' environments gave.

::

    python -m tests.matrix.table FOLDER            # prints them
    python -m tests.matrix.table FOLDER --write    # also writes the page and readers.json; needs all releases

FOLDER holds ``restarting-<release>.json`` and ``reading-<release>.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests import corpus

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
READERS = Path(__file__).with_name("readers.json")

HEAD = """\
# Compatibility with Triton's releases

Written by [`tests/matrix/table.py`](../tests/matrix/table.py) from what each release did in an environment of its own;
`nox -s matrix -- --write` does all of it.

## Starting again from every level

Each kernel was compiled by the release's own `triton.compile`. Then its TTIR, TTGIR, LLIR and PTX were read back from
the files and lowered by `trlaunch.lower` to PTX and to cubin.

| cell | means |
|---|---|
| same | from every level: the PTX is the same byte for byte, so are the instructions (`.text`) of the cubin, and the \
metadata but for its hash, the paths of libraries and environment variables |
| same, right | as above, and the kernel, run on the emulator, gives what NumPy does |
| same ¹ | the PTX is the same byte for byte; ptxas gives one of several codes for one PTX, run by run, \
and the cubin has one of them |
| refused | `trlaunch.lower` says that the release cannot compile for the target; the release itself would abort |
| no | the release's own `triton.compile` fails, as given below the table |
| – | the release has no such descriptors, or does not specialise warps |

cuda:80 and cuda:90 are compiled and started again; cuda:80 is run on the emulator too. cuda:75, 86, 100 and 120 are \
compiled, assembled and started again, and run nowhere.
"""

READING = """\
## Whose text a release reads

Every TTIR and TTGIR of the test corpus, lowered to PTX by every release. A row is the release that wrote the text, a
column the one that reads it: of how many texts it makes PTX. `trlaunch.lower` refuses the others before Triton sees
them, by what the text says ([`trlaunch/lowering/dialect.py`](../trlaunch/lowering/dialect.py)); † marks pairs of which
some text aborts the process. A text that is read need not give the PTX that the same kernel gives from its source:
that of `add_kernel` does in all pairs that read it, that of a kernel with a reduction often does not.
"""

NOTES = """\
## Notes

- Host tensor descriptors written by 3.2 are tensor maps passed by value. 3.0 and 3.1 read such TTIR, and compile a
  kernel that takes their address instead: refused.
- With `num_ctas` above 1 the TTGIR of a matmul differs from one run of Triton 3.0 to 3.8 to the next: CTAs of a cluster
  are planned in an order of addresses. The matrix has no such kernel. From TTGIR on results are the same each time.
- Triton 3.2 and 3.3 give the first kernel of a process other PTX than the same kernel later on, since stages set global
  options of LLVM. `trlaunch.lower` always gives the latter.
- TLX is not on PyPI: functions of it could not be run here.
"""


def number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def load(folder: Path, kind: str) -> dict[str, Any]:
    """The documents of a kind by release, oldest first."""
    found = {p.stem.partition("-")[2]: json.loads(p.read_text()) for p in folder.glob(f"{kind}-*.json")}
    return {release: found[release] for release in sorted(found, key=number)}


def lines(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table of Markdown."""
    cells = [list(header), *(list(row) for row in rows)]
    return [
        f"| {' | '.join(cells[0])} |",
        "|" + "---|" * len(cells[0]),
        *(f"| {' | '.join(row)} |" for row in cells[1:]),
    ]


def short(release: str) -> str:
    return release.rpartition(".")[0]


def cell(found: dict[str, Any] | None, reasons: dict[str, list[str]], where: str) -> str:
    """What a cell says; why a compilation failed is gathered in `reasons`."""
    if found is None:
        return "–"
    if found["compile"].startswith("refused"):
        return "refused"
    if found["compile"]:
        reasons.setdefault(found["compile"].removeprefix("error: "), []).append(where)
        return "no"
    if found["restart"]:
        reasons.setdefault(found["restart"], []).append(where)
        return "**differs**"
    said = "same" if found["steady"] else "same ¹"
    if found.get("run"):
        reasons.setdefault(found["run"], []).append(where)
        return f"{said}, **wrong**"
    return f"{said}, right" if "run" in found else said


def restarting(documents: dict[str, Any]) -> list[str]:
    """The table of restarts, a row for each kernel and target."""
    cells = {(r, c["kernel"], c["target"]): c for r, d in documents.items() for c in d["cells"]}
    kernels = list(dict.fromkeys(c["kernel"] for d in documents.values() for c in d["cells"]))
    targets = list(dict.fromkeys(c["target"] for d in documents.values() for c in d["cells"]))
    reasons: dict[str, list[str]] = {}
    rows = [
        [kernel, target]
        + [cell(cells.get((r, kernel, target)), reasons, f"{kernel} for {target} by {short(r)}") for r in documents]
        for kernel in kernels
        for target in targets
        if any((r, kernel, target) in cells for r in documents)
    ]
    notes = [line for reason, where in reasons.items() for line in ("", f"`{reason}`:", "", *_gathered(where))]
    return [*lines(["kernel", "target", *documents], rows), *notes]


def _gathered(where: list[str]) -> list[str]:
    """``x by 3.0`` and ``x by 3.1`` as one item."""
    releases: dict[str, list[str]] = {}
    for text in where:
        kernel, _, release = text.rpartition(" by ")
        releases.setdefault(kernel, []).append(release)
    return [f"- {kernel} by {', '.join(found)}" for kernel, found in releases.items()]


def reading(documents: dict[str, Any]) -> list[str]:
    """The two tables of readers."""
    out = []
    for level in ("ttir", "ttgir"):
        rows = []
        for writer in corpus.releases():
            row = [f"**{short(writer)}**"]
            for document in documents.values():
                found = [r for r in document["results"] if (r["writer"], r["level"]) == (writer, level)]
                read = sum(r["how"] == "done" for r in found)
                aborts = any(r["how"] == "died" for r in found)
                row.append(f"{read} of {len(found)}{' †' if aborts else ''}" if read < len(found) else "all")
            rows.append(row)
        out += ["", f"### {level.upper()}", "", *lines(["written by", *map(short, documents)], rows)]
    return out


def readers(documents: dict[str, Any]) -> dict[str, Any]:
    """By writer, target, case and level: the releases that make PTX of the text."""
    table: dict[str, Any] = {}
    for release, document in documents.items():
        for r in document["results"]:
            at = table.setdefault(r["writer"], {}).setdefault(r["target"], {}).setdefault(r["case"], {})
            at.setdefault(r["level"], []).extend([release] if r["how"] == "done" else [])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the tables of docs/compatibility.md, or write them.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    restarts, reads = load(arguments.folder, "restarting"), load(arguments.folder, "reading")
    body = "\n".join([*restarting(restarts), "", READING.rstrip(), *reading(reads)])
    print(body)
    if arguments.write:
        missing = [r for r in corpus.releases() if r not in restarts or r not in reads]
        if missing:
            raise SystemExit(f"not written: {', '.join(missing)} did not run")
        PAGE.write_text(f"{HEAD}\n{body}\n\n{NOTES}")
        READERS.write_text(json.dumps(readers(reads), separators=(",", ":"), sort_keys=True) + "\n")
    wrong = [c for d in restarts.values() for c in d["cells"] if c.get("restart") or c.get("run")]
    if wrong:
        sys.exit(f"{len(wrong)} cells are not as triton.compile has them")


if __name__ == "__main__":
    main()
