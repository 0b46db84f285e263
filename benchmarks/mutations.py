"""How many planted bugs the emulator's checks find, and what they make of kernels that have none.

    python benchmarks/mutations.py [--only PATTERN] [--most N] [--unmutated] [--list] [--markdown] [--json FILE]

Mutants (`tests/emulator/mutations.py`): each barrier, each wait and each fence dropped, arrivals dropped, byte counts
raised, stores to shared memory dropped, pointers shifted and buffers shortened, in kernels of several releases and of
both architectures. A mutant is found if the checks raise a fault. One that is not is run with its warps one after the
other in several orders: if the result is NumPy's in all of them, it counts as harmless, and why is said by dropping
its neighbours along with it; else it was missed. ``--unmutated`` runs every kernel of the corpus as it is: whatever
is found there is a false report.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.emulator import mutations


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="kernels: *matmul*")
    parser.add_argument("--most", type=int, metavar="N", help="mutants of a class and kernel")
    parser.add_argument("--unmutated", action="store_true", help="the kernels as they are")
    parser.add_argument("--list", action="store_true", help="each mutant that was not found")
    parser.add_argument("--markdown", action="store_true", help="tables for the documentation")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    result = unmutated(options.only) if options.unmutated else mutated(options.only, options.most, options.list)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    if not options.unmutated:
        _show(result["mutants"], options.markdown)


def unmutated(only: str) -> dict[str, Any]:
    """What is found in kernels that are right."""
    chosen = [s for s in mutations.every_subject() if fnmatch.fnmatch(str(s), only)]
    start = time.perf_counter()
    reports = {str(s): found for s in chosen if (found := mutations.judge(s)) != "nothing"}
    seconds = time.perf_counter() - start
    kernels = len({s.case.name for s in chosen})
    print(f"{len(chosen)} cases of {kernels} kernels, {len(reports)} with a report, {seconds:.0f} s")
    for name, found in reports.items():
        print(f"  {name}: {found}")
    return {"cases": len(chosen), "kernels": kernels, "reports": reports}


def mutated(only: str, most: int | None, listed: bool) -> dict[str, Any]:
    """What becomes of every mutant."""
    rows = []
    for subject in mutations.subjects():
        if not fnmatch.fnmatch(str(subject), only):
            continue
        start, before = time.perf_counter(), len(rows)
        for mutant in mutations.mutants(subject, most):
            found = mutations.judge(mutant)
            row = {"kernel": str(subject), "class": mutant.kind, "what": mutant.what, "found": found, "why": None}
            if found == "nothing":
                row["found"] = "missed" if mutations.harm(mutant) else "harmless"
                row["why"] = mutations.reason(mutant) if row["found"] == "harmless" else None
            rows.append(row)
            if listed and row["found"] in ("missed", "harmless", "wrong result"):
                print(f"{subject}: {mutant.kind}, {mutant.what}: {row['found']} ({row['why']})", flush=True)
        seconds = time.perf_counter() - start
        print(f"{subject}: {len(rows) - before} mutants, {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"mutants": rows}


def _show(rows: list[dict[str, Any]], markdown: bool) -> None:
    """Detection rates per class, and why the others do no harm."""
    columns = ("dropped or changed", "mutants", "found", "harmless", "missed", "of the harmful", "found as")
    table = []
    for kind in mutations.CLASSES:
        counts = Counter(row["found"] for row in rows if row["class"] == kind)
        total, harmless = sum(counts.values()), counts.pop("harmless", 0)
        if not total:
            continue
        missed = counts.pop("missed", 0) + counts.pop("wrong result", 0)
        found = sum(counts.values())
        rate = f"{100 * found / (found + missed):.0f} %" if found + missed else "-"
        ways = ", ".join(f"{n} {name}" for name, n in counts.most_common())
        table.append((kind, total, found, harmless, missed, rate, ways))
    _print(columns, table, markdown)
    reasons = Counter((row["class"], _kind_of(row["why"])) for row in rows if row["found"] == "harmless")
    print()
    _print(("dropped or changed", "harmless because", "mutants"), [(*key, n) for key, n in sorted(reasons.items())],
           markdown)  # fmt: skip


def _kind_of(why: str) -> str:
    return "other lines order the same accesses" if why.startswith("line") else why


def _print(columns: tuple[str, ...], rows: list[tuple[Any, ...]], markdown: bool) -> None:
    if markdown:
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        for row in rows:
            print("| " + " | ".join(map(str, row)) + " |")
        return
    widths = [max(len(str(row[i])) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
