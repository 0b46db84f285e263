"""Code: from an artifact to the image that a device loads, lowered or assembled on the way where that is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trlaunch.artifact import Artifact, Level
from trlaunch.driver import DeviceProperties
from trlaunch.errors import ArgumentError, ArtifactError, AssemblerMissing, FallbackWarning, SignatureError, warn
from trlaunch.image import Image, ImageKernel
from trlaunch.records import dataclass
from trlaunch.signature import Signature, Source, assemble, from_caller, from_func, from_llir, from_ptx
from trlaunch.target import Target

if TYPE_CHECKING:
    from trlaunch.dump.capture import Captures

__all__ = ["Code"]


@dataclass(frozen=True, slots=True)
class Code:
    """An artifact on its way to a device.

    Attributes
    ----------
    artifact : Artifact
        What the user gave.
    ready : Artifact
        A cubin, an hsaco or PTX: the artifact itself, or what it was lowered to.
    image : Image
        What `ready` says about itself.
    texts : mapping of Level to str
        The text levels at hand, those with the most to say about parameters first.
    captures : Captures or None
        What was put into the artifact to be dumped.
    """

    artifact: Artifact
    ready: Artifact
    image: Image
    texts: Mapping[Level, str]
    captures: Captures | None = None

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        target: Target | str | None,
        options: Mapping[str, Any] | None,
        name: str | None,
        captures: Captures | None = None,
    ) -> Code:
        """Lower or assemble the artifact where no driver takes it as it is, and read the image."""
        if captures is not None:
            artifact = captures.artifact
        ready = _lowered(artifact, target, options, name)
        return cls(artifact, ready, _read_image(ready), _texts(ready), captures)

    def image_for(self, properties: DeviceProperties, kernel: str) -> tuple[Image, bool]:
        """The image of `kernel` that a device loads, and whether the driver will compile it."""
        if properties.device.driver == "emulator":
            return self._ptx_image(kernel), False
        if self.image.format != "ptx" or properties.target.backend != self.image.target.backend:
            return self.image, False
        from trlaunch.cuda.assembler import Options, strides_in_16_bytes
        from trlaunch.cuda.assembler import assemble as assemble_ptx
        from trlaunch.cuda.image import read_image

        if self.ready is not self.artifact and self.image.target.arch == properties.target.arch:
            from trlaunch.lowering import lower  # the same ptxas and options as the compiler that wrote the PTX

            return read_image(lower(self.ready, Level.CUBIN, name=kernel).data), False
        target = self.image.target
        if not target.suffix and properties.target.capability >= target.capability:
            target = properties.target  # PTX without suffix is compiled for the device at hand
        metadata = self.ready.metadata
        options = Options(fmad=metadata.fp_fusion, extra=tuple(metadata.ptx_options.split())) if metadata else None
        try:
            assembled = assemble_ptx(self.ready.data, target, options=options, driver_version=properties.driver_version)
        except AssemblerMissing as error:
            if strides_in_16_bytes(self.ready.text):
                raise  # the driver's compiler would misread it, too
            warn(
                f"{self.artifact.label}: no ptxas at hand, the driver's own compiler is used ({error})",
                FallbackWarning,
            )
            return self.image, True
        return read_image(assembled.cubin), False

    def _ptx_image(self, kernel: str) -> Image:
        """PTX for the emulator: the artifact's own, else the one beside it."""
        if self.image.format == "ptx":
            return self.image
        if self.image.target.backend == "hip":
            raise ArtifactError(
                f"{self.artifact.label} is for {self.image.target} and the emulator executes PTX alone: run it on an "
                f"AMD GPU, or compile the kernel for CUDA"
            )
        beside = self.ready.sibling(Level.PTX)
        stated = self.artifact.parameters
        if beside is None and stated is not None and stated.label == "bundle":
            raise ArtifactError(
                f"{self.artifact.label} holds a {self.artifact.level} without texts and the emulator executes PTX: "
                f"bundle it with --texts (texts=True), or run on a GPU"
            )
        if beside is None:
            raise ArtifactError(
                f"{self.artifact.label} is a {self.artifact.level} and the emulator executes PTX: expected "
                f"{self.artifact.path.stem if self.artifact.path else kernel}.ptx beside it, found none; "
                f"give the .ptx, or run on a GPU"
            )
        warn(
            f"{self.artifact.label} needs a GPU: {beside.label} beside it is executed by the emulator",
            FallbackWarning,
        )
        from trlaunch.emulator.image import read_image

        return read_image(beside.data)

    def signature(
        self, entry: ImageKernel, label: str, given: Mapping[str, Any] | Sequence[Any] | str | None
    ) -> Signature:
        """The parameters of a kernel, laid out as `entry`, which `label` names, has them."""
        captures = self.captures
        known = entry if captures is None else captures.without(entry)
        sources: list[tuple[Level | None, Source | None]] = []
        if given is not None:
            sources.append((None, from_caller(given, known)))
        elif self.artifact.parameters is not None:
            sources.append((None, self.artifact.parameters))
        for level, text in self.texts.items():
            if level in (Level.TTGIR, Level.TTIR):
                sources.append((level, from_func(text, entry.name, str(level))))
            elif level is Level.LLIR:
                sources.append((level, from_llir(text, entry.name)))
        ptx = self._ptx_entry(entry)
        if ptx is not None:
            sources.append((Level.PTX, from_ptx(ptx)))
        found = [
            source if captures is None or level is None else captures.source_without(source, level)
            for level, source in sources
            if source is not None
        ]
        try:
            assembled = assemble(known, label, self.ready.metadata, found)
        except SignatureError as error:
            raise SignatureError(f"{entry.name} in {self.artifact.label}: {error}") from None
        return assembled if captures is None else captures.signature(entry, assembled)

    def _ptx_entry(self, entry: ImageKernel) -> ImageKernel | None:
        """The kernel in the PTX at hand, the artifact's own or the one beside it."""
        if self.image.format == "ptx":
            return self.image.kernels.get(entry.name)
        text = self.texts.get(Level.PTX)
        if text is None:
            return None
        from trlaunch.emulator.image import read_image

        return read_image(text).kernels.get(entry.name)


def _read_image(artifact: Artifact) -> Image:
    if artifact.level is Level.CUBIN:
        from trlaunch.cuda.image import read_image

        return read_image(artifact.data)
    if artifact.level is Level.HSACO:
        from trlaunch.hip.image import read_image as read_hsaco

        return read_hsaco(artifact.data)
    if artifact.level is Level.PTX:
        from trlaunch.emulator.image import read_image as read_ptx

        return read_ptx(artifact.text)
    raise ArtifactError(
        f"{artifact.label} is {artifact.level}, which this version cannot launch: expected a level from ttir on"
    )


def _lowered(
    artifact: Artifact, target: Target | str | None, options: Mapping[str, Any] | None, name: str | None
) -> Artifact:
    """The artifact itself where a driver takes it, else the PTX or hsaco that is made of it."""
    if artifact.level not in (Level.TTIR, Level.TTGIR, Level.LLIR):
        if target is not None or options:
            raise ArgumentError(
                f"target= and options= are for levels above PTX, {artifact.label} is {artifact.level}: leave them out"
            )
        return _assembled(artifact) if artifact.level is Level.AMDGCN else artifact
    from trlaunch.lowering import lower
    from trlaunch.lowering.options import target_of

    if target_of(artifact, target).backend == "hip":
        return _assembled(lower(artifact, Level.AMDGCN, target, options, name=name))
    return lower(artifact, Level.PTX, target, options, name=name)


def _assembled(artifact: Artifact) -> Artifact:
    """The hsaco of AMDGCN text: for one architecture, so that no device needs to be known."""
    from trlaunch.hip.assembler import assemble as assemble_amdgcn

    metadata = artifact.metadata
    made = assemble_amdgcn(artifact.data, release=metadata.releases if metadata else None)
    siblings = {**artifact.siblings, Level.AMDGCN: artifact.data}
    siblings.pop(Level.HSACO, None)
    return Artifact(Level.HSACO, made.hsaco, None, metadata, siblings)


def _texts(artifact: Artifact) -> dict[Level, str]:
    """The text levels beside an artifact (its own included), those with the most to say first."""
    texts: dict[Level, str] = {}
    for level in (Level.TTGIR, Level.TTIR, Level.LLIR, Level.PTX):
        if artifact.level is level:
            texts[level] = artifact.text
        elif level in artifact.siblings:
            beside = artifact.sibling(level)
            if beside is not None:
                texts[level] = beside.text
    return texts
