"""What makes the compiler abort the whole process, refused before it happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trlaunch.errors import LoweringError
from trlaunch.target import Target

__all__ = ["refuse_options", "refuse_target"]

# Compute capabilities that the LLVM of a release can name; another ends in abort() (found by lowering a matmul and a
# reduction for each, and for numbers in between that no GPU has). 10.1 was renamed 11.0 in CUDA 13.
_ALWAYS = (70, 72, 75, 80, 86, 87, 89, 90)
_CAPABILITIES = (
    ((3, 7), (*_ALWAYS, 88, 100, 103, 110, 120, 121)),
    ((3, 5), (*_ALWAYS, 88, 100, 101, 103, 110, 120, 121)),
    ((3, 4), (*_ALWAYS, 100, 101, 103, 120, 121)),
    ((3, 3), (*_ALWAYS, 100, 101, 120)),
    ((3, 0), _ALWAYS),
)
_CLUSTERS = 90  # compute capability from which CTAs form clusters
_LARGEST_CLUSTER = 16  # with cudaFuncAttributeNonPortableClusterSizeAllowed, CUDA programming guide


def refuse_target(version: str, target: Target) -> None:
    """Raise `LoweringError` for a target that a release cannot name.

    Parameters
    ----------
    version : str
        Triton's, ``"3.6.0"``.
    target : Target
    """
    if target.backend != "cuda":
        return
    major, minor = (int(n) for n in version.split(".")[:2])
    known = next((known for since, known in _CAPABILITIES if (major, minor) >= since), ())
    if target.capability not in known:
        listed = ", ".join(map(str, sorted(known)))
        since = [s for s, able in reversed(_CAPABILITIES) if target.capability in able]
        later = f"; Triton {since[0][0]}.{since[0][1]} can" if since and since[0] > (major, minor) else ""
        raise LoweringError(
            f"Triton {version} cannot compile for {target}, it would abort the process: expected one of the compute "
            f"capabilities {listed}{later}",
            stage="target",
        )


def refuse_options(target: Target, options: Mapping[str, Any]) -> None:
    """Raise `LoweringError` for clusters that no release can lay out.

    Parameters
    ----------
    target : Target
    options : mapping
        As they are given to the backend.
    """
    num_ctas = options.get("num_ctas", 1)
    if target.backend != "cuda":
        return
    if not isinstance(num_ctas, int) or num_ctas not in (1, 2, 4, 8, _LARGEST_CLUSTER):
        raise LoweringError(f"num_ctas={num_ctas!r}: expected 1, 2, 4, 8 or {_LARGEST_CLUSTER}", stage="options")
    if num_ctas > 1 and target.capability < _CLUSTERS:
        raise LoweringError(
            f"num_ctas={num_ctas} for {target}: CTAs form clusters from cuda:{_CLUSTERS} on, expected 1",
            stage="options",
        )
    cluster = options.get("cluster_dims")
    if cluster is not None and tuple(cluster) != (1, 1, 1):
        x, y, z = (*cluster, 0, 0, 0)[:3]
        if x * y * z != num_ctas or len(cluster) != 3:
            raise LoweringError(
                f"cluster_dims={tuple(cluster)}: expected three numbers whose product is num_ctas={num_ctas}",
                stage="options",
            )
