"""Finding: what one rule of the audit found, about what, and the report of all of them."""

from __future__ import annotations

from trlaunch.driver import DeviceProperties
from trlaunch.image import Image, ImageKernel
from trlaunch.metadata import Metadata
from trlaunch.records import dataclass, field
from trlaunch.signature import Signature
from trlaunch.target import Target

__all__ = ["Finding", "Report", "Subject"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found.

    Attributes
    ----------
    rule : str
        ``"block"``, ``"shared"``, ``"architecture"``, ...
    severity : {"ok", "note", "warning", "error"}
        An error refuses the launch.
    message : str
        The fields, with the values of both sides.
    hint : str
        The way out.
    """

    rule: str
    severity: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.severity:<7} {self.rule}: {self.message}" + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about one kernel on one device.

    Attributes
    ----------
    title : str
        Kernel, level, target and device.
    findings : tuple of Finding
    """

    title: str
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that refuse the launch."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def ok(self) -> bool:
        """Whether nothing refuses the launch."""
        return not self.errors

    def to_dict(self) -> dict[str, object]:
        """The report for JSON."""
        from dataclasses import asdict

        return {"title": self.title, "ok": self.ok, "findings": [asdict(f) for f in self.findings]}

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {finding}" for finding in self.findings)])


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited.

    Attributes
    ----------
    image, entry
        The binary as it will be loaded, and the kernel in it.
    source_target : Target
        What the artifact is for; PTX may have been assembled for a later device.
    metadata : Metadata or None
    signature : Signature
    device : DeviceProperties
    shared : int or None
        Dynamic shared memory the launch will ask for; ``None`` when nothing states it.
    shared_given : bool
        Whether the caller gave it, over the metadata's.
    threads : int or None
        Threads per block the launch will ask for.
    ttgir : str or None
        The TTGIR beside the image.
    stem, folder : str or None
        Name of the file without extension, and of its folder.
    driver_compiles : bool
        Whether PTX goes to the driver's own compiler.
    """

    image: Image
    entry: ImageKernel
    source_target: Target
    metadata: Metadata | None
    signature: Signature
    device: DeviceProperties
    shared: int | None
    shared_given: bool = False
    threads: int | None = None
    ttgir: str | None = field(default=None, repr=False)
    stem: str | None = None
    folder: str | None = None
    driver_compiles: bool = False
