"""Target: what a kernel was compiled for."""

from __future__ import annotations

import re

from trlaunch.errors import TrlaunchError
from trlaunch.records import dataclass

__all__ = ["Target"]

_CUDA = r"(?:cuda:|sm_?)(\d{2,3})([af]?)\Z"
_HIP = r"(?:hip:)?(gfx[0-9a-f]+)((?::(?:xnack|sramecc)[+-])*)\Z"


@dataclass(frozen=True, slots=True)
class Target:
    """Backend, architecture and warp size.

    Attributes
    ----------
    backend : {"cuda", "hip"}
    arch : str
        Compute capability as digits (``"90"``) or a gfx name (``"gfx942"``).
    suffix : str
        CUDA: ``"a"`` (architecture-specific), ``"f"`` (family-specific) or empty.
        HIP: target features such as ``":xnack+"``, or empty.
    warp_size : int
        Threads of a warp (a wavefront).
    """

    backend: str
    arch: str
    suffix: str = ""
    warp_size: int = 32

    @classmethod
    def parse(cls, text: str, warp_size: int | None = None) -> Target:
        """Read ``cuda:90``, ``cuda:90a``, ``sm_90a``, ``hip:gfx942`` or ``gfx90a:xnack+``.

        Raises
        ------
        TrlaunchError
            The text is none of these forms.
        """
        if m := re.match(_CUDA, text):
            return cls("cuda", m[1], m[2], warp_size or 32)
        if m := re.match(_HIP, text):
            # GFX9 (GCN, CDNA) runs 64 lanes; RDNA is compiled by Triton for 32 (facts: Triton's AMD backend).
            return cls("hip", m[1], m[2], warp_size or (64 if m[1].startswith("gfx9") else 32))
        raise TrlaunchError(
            f"target {text!r} is not understood: expected cuda:<capability> such as cuda:90 or sm_90a, "
            f"or hip:<gfx name> such as hip:gfx942"
        )

    @property
    def capability(self) -> int:
        """CUDA compute capability as one number, ``90`` for 9.0."""
        if self.backend != "cuda":
            raise TrlaunchError(f"{self} has no CUDA compute capability")
        return int(self.arch)

    @property
    def sm(self) -> str:
        """``sm_90a``: the name ptxas and cuobjdump use."""
        return f"sm_{self.capability}{self.suffix}"

    def __str__(self) -> str:
        return f"{self.backend}:{self.arch}{self.suffix}"
