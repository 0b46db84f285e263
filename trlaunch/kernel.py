"""Kernel: one kernel of one artifact, ready to launch on any device that can run it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch import launching, streams
from trlaunch.artifact import Artifact, Level
from trlaunch.check import Finding, Report, Subject, audit, audit_grid
from trlaunch.code import Code
from trlaunch.devices import default_device, get
from trlaunch.driver import Device, DeviceProperties, Driver, Function, LaunchConfig
from trlaunch.errors import ArgumentError, CheckError, CheckWarning, warn
from trlaunch.image import Image
from trlaunch.metadata import Metadata
from trlaunch.packing import Packer, flatten
from trlaunch.placement import grid_sizes, place_of
from trlaunch.records import dataclass, field
from trlaunch.target import Target

if TYPE_CHECKING:
    from trlaunch.dump.capture import Captures
    from trlaunch.dump.read import Run
    from trlaunch.emulator.debugger import Session
    from trlaunch.resources import Resources

__all__ = ["Kernel"]


@dataclass(slots=True)
class _Loaded:
    """A kernel on one device."""

    driver: Driver
    properties: DeviceProperties
    subject: Subject
    packer: Packer
    findings: tuple[Finding, ...]
    function: Function | None = None
    grids: set[tuple[int, int, int]] = field(default_factory=set)
    plan: Any = None  # of trlaunch.launching; False: there is none

    @property
    def device(self) -> Device:
        return self.properties.device


class Kernel(launching.Launched):
    """One kernel, launched straight through the driver.

    Made by `from_file`, `from_bytes`, `from_cache` or `from_function`. A kernel works on several devices and from
    several threads; it is loaded on a device when it is first launched there.

    Attributes
    ----------
    name : str
        Its symbol.
    artifact : Artifact
        What it was made from.
    code : Code
        What becomes of it on the way to a device.
    metadata : Metadata or None
    image : Image
        What the code says about itself.
    entry : ImageKernel
        This kernel in it.
    signature : Signature
        Its parameters, laid out as in `image`.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        name: str | None = None,
        signature: Mapping[str, Any] | Sequence[Any] | str | None = None,
        device: str | Device | None = None,
        shared: int | None = None,
        check: str = "error",
        target: Target | str | None = None,
        options: Mapping[str, Any] | None = None,
        dump: Any = None,
        dump_limit: int | None = 1 << 30,
    ) -> None:
        if check not in ("error", "warn"):
            raise ArgumentError(f"check={check!r}: expected 'error' or 'warn'")
        if shared is not None and (isinstance(shared, bool) or not isinstance(shared, int) or shared < 0):
            raise ArgumentError(f"shared={shared!r:.60}: expected a number of bytes")
        self.artifact = artifact
        self._captures = _captures(artifact, dump, name, dump_limit)
        self.code = Code.of(artifact, target, options, name, self._captures)
        self.metadata = self.code.ready.metadata
        self.image = self.code.image
        self.entry = self.image.kernel(name or _name_in(self.metadata, self.image))
        self.name = self.entry.name
        self._given_signature = signature
        self._given_device = None if device is None else Device.parse(device)
        self._given_shared = shared
        self._check = check
        self.signature = self.code.signature(self.entry, self.image.format, signature)
        self._lock = threading.Lock()
        self._loaded: dict[Device, _Loaded] = {}
        launching.register(self, self._given_device is not None)

    # --- where kernels come from -------------------------------------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        metadata: str | Path | Mapping[str, Any] | Metadata | None = None,
        *,
        name: str | None = None,
        signature: Mapping[str, Any] | Sequence[Any] | str | None = None,
        device: str | Device | None = None,
        shared: int | None = None,
        check: str = "error",
        target: Target | str | None = None,
        options: Mapping[str, Any] | None = None,
        dump: Any = None,
        dump_limit: int | None = 1 << 30,
    ) -> Kernel:
        """A kernel from a file of any level from TTIR on; levels above PTX are lowered by the installed Triton.

        Parameters
        ----------
        path : path
        metadata : path, mapping or Metadata, optional
            Triton's JSON; left out, ``<stem>.json`` beside the file.
        name : str, optional
            Symbol; left out, the metadata's, else the only one of the image.
        signature : mapping, sequence or str, optional
            Triton's types of the user's parameters, by name or in order.
        device : str, optional
            ``"cuda:1"``, ``"emulator"``: where every launch goes. Left out, each goes where its arguments are, else to
            the GPU if there is one, else to the emulator.
        shared : int, optional
            Dynamic shared memory in bytes, over the metadata's.
        check : {"error", "warn"}
            Whether an error of the audit refuses a launch.
        target : str or Target, optional
            What a level above PTX is lowered for: by default as metadata or text state; of a bundle, what to take.
        options : mapping, optional
            Compile options for it, over those of the metadata and the text.
        dump : str, At or sequence of them, optional
            Values inside the kernel that each launch captures: names as in the text, and `trlaunch.at`.
        dump_limit : int, optional
            Bytes above which a launch with dumps is refused; 1 GiB by default, ``None`` for no limit.

        Raises
        ------
        ArtifactError, MetadataError, ImageError, SignatureError
            The files cannot be read or do not belong together.
        LoweringError
            Triton is missing, is another release than the text needs, or failed.
        """
        artifact = Artifact.from_file(path, metadata, device, target)
        return cls(
            artifact,
            name=name,
            signature=signature,
            device=device,
            shared=shared,
            check=check,
            target=None if artifact.parameters is not None else target,  # a bundle's has been chosen
            options=options,
            dump=dump,
            dump_limit=dump_limit,
        )

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview | str,
        metadata: str | Path | Mapping[str, Any] | Metadata | None = None,
        *,
        level: Level | str | None = None,
        **settings: Any,
    ) -> Kernel:
        """A kernel from content at hand; the settings are `from_file`'s, `level` where the content does not tell."""
        artifact = Artifact.from_bytes(data, metadata, level, settings.get("device"), settings.get("target"))
        return cls(artifact, **settings | ({"target": None} if artifact.parameters is not None else {}))

    @classmethod
    def from_cache(
        cls, directory: str | Path, *, name: str | None = None, level: Level | str | None = None, **settings: Any
    ) -> Kernel:
        """A kernel from a folder of Triton's cache; `level` chooses the file, the binary by default."""
        return cls(Artifact.from_cache(directory, name, level), **settings)

    @classmethod
    def from_function(
        cls,
        function: Any,
        *example_args: Any,
        grid: Any = None,
        target: Target | str | None = None,
        device: str | Device | None = None,
        options: Mapping[str, Any] | None = None,
        check: str = "error",
        dump: Any = None,
        **keywords: Any,
    ) -> Kernel:
        """A kernel from a ``@triton.jit`` or ``@gluon.jit`` function, compiled for the arguments of one call.

        The installed Triton compiles it as for a launch with these arguments: for their dtypes, for addresses and
        integers that are multiples of 16, integers that are 1, ``None``. `launch` then takes the arguments that are
        not compiled in.

        Parameters
        ----------
        function : JITFunction or function
            Of Triton or Gluon; a plain function is taken as one of ``@triton.jit``.
        *example_args
            In order; tensors of any framework, numbers, tuples, descriptors. A dtype (NumPy's, torch's) or a string
            such as ``"*fp16"`` stands for an aligned tensor.
        grid : int, sequence of int or callable, optional
            Audited at once, as a launch with it would be; a callable is given the arguments by name.
        target : str or Target, optional
            What to compile for, ``"cuda:90"``; no GPU is needed then. Left out, the device's own.
        device : str, optional
            Left out, where the arguments are, else the GPU if there is one, else the emulator.
        options : mapping, optional
            Compile options by Triton's names: ``{"num_warps": 8}``.
        check : {"error", "warn"}
            Whether an error of the audit refuses a launch.
        dump : bool, str, At or sequence, optional
            ``True``: what the function passes to `trlaunch.language.dump`; else values of its TTIR (Gluon: TTGIR).
        **keywords
            Arguments by name, constexprs among them; those that name no parameter are compile options, too.

        Raises
        ------
        ArgumentError
            The function does not take these arguments.
        LoweringError
            Triton is missing, has no such option, or could not compile the function.
        """
        from trlaunch.lowering.specialize import bind, compile_function, grid_of, jit_function, where

        bound = bind(jit_function(function), example_args, {**keywords, **(options or {})})
        level, chosen = where(target, device, tuple(bound.values.values()))
        compiled = compile_function(bound, level, chosen, marked=dump is True, first=bool(dump))
        kernel = cls(compiled.artifact, signature=compiled.types, device=device, check=check, dump=dump or None)
        if grid is not None:
            report = kernel.check(grid_of(grid, bound), device)
            if not report.ok and check == "error":
                raise CheckError(f"{kernel.name} cannot be launched on this grid:\n{report}", report)
        return kernel

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def level(self) -> Level:
        """Level of the artifact it came from."""
        return self.artifact.level

    @property
    def target(self) -> Target:
        """What it was compiled for."""
        return self.image.target

    @property
    def device(self) -> Device:
        """Where a launch goes whose arguments are on no GPU: the device given, else the default one."""
        return self._choose(None, ())

    @property
    def threads(self) -> int | None:
        """Threads a block: the metadata's warps, else what the image was compiled for."""
        if self.metadata is not None and self.metadata.num_warps is not None:
            return self.metadata.num_warps * self.target.warp_size
        return self.entry.block_threads

    @property
    def shared(self) -> int | None:
        """Dynamic shared memory in bytes that a launch asks for; ``None`` when nothing states it."""
        if self._given_shared is not None:
            return self._given_shared
        if self.metadata is not None and self.metadata.shared is not None:
            return self.metadata.shared
        return 0 if self.entry.uses_dynamic_shared is False else None

    def resources(self, device: str | Device | None = None) -> Resources:
        """Registers, spills, shared memory and occupancy on a device.

        Raises
        ------
        CheckError
            The kernel cannot run there.
        """
        from trlaunch.resources import Resources

        loaded = self._load(self._choose(device, ()))
        self._raise(self._report(loaded, loaded.findings), f"{self.name} cannot run on {loaded.device}")
        function = self._function(loaded)
        stated = loaded.driver.resources(function)
        config = self._config(self._ctas((1, 1, 1)), 0)
        entry = loaded.subject.entry
        return Resources(
            registers=stated.get("registers", entry.registers),
            local_bytes=stated.get("local_bytes", entry.local_bytes),
            spill_instructions=entry.spill_instructions,
            static_shared=stated.get("static_shared", entry.static_shared),
            dynamic_shared=config.shared,
            threads=config.block[0],
            ctas_per_multiprocessor=loaded.driver.occupancy(function, config),
        )

    def check(self, grid: int | Sequence[int] | None = None, device: str | Device | None = None) -> Report:
        """Audit image, metadata, signature and device; the driver is asked for limits and occupancy, never to launch.

        Parameters
        ----------
        grid : int or sequence of int, optional
            As for `launch`; without it nothing is said about the grid.
        device : str, optional
            As for `launch`.
        """
        loaded = self._load(self._choose(device, ()))
        findings = loaded.findings
        if grid is not None:
            findings += self._audit_grid(loaded, self._ctas(grid_sizes(grid)))
        return self._report(loaded, findings)

    def save(self, path: str | Path, **settings: Any) -> Path:
        """Write binary, metadata and signature to one file, a ``.trk``; the settings are `trlaunch.bundle.save`'s."""
        from trlaunch.bundle.files import save

        return save(path, self, **settings)

    # --- launching ---------------------------------------------------------------------------------------------------

    @launching.accelerated
    def launch(
        self,
        grid: int | Sequence[int],
        *args: Any,
        stream: Any = None,
        device: str | Device | None = None,
        **named: Any,
    ) -> Run | None:
        """Check, pack and launch.

        Parameters
        ----------
        grid : int or sequence of int
            Programs along x, y, z, as in Triton's ``kernel[grid]``; a grid of no programs launches nothing.
        *args
            The user's arguments in order: tensors (DLPack, ``__cuda_array_interface__``, ``data_ptr()``, NumPy on the
            emulator), numbers, `trlaunch.TensorDescriptor`, `trlaunch.Pointer`; tuples are flattened. Constexpr
            arguments, and integers that the compiler specialised to 1, are not passed.
        stream : object, optional
            See `trlaunch.streams.handle`; left out, torch's current stream if a torch tensor is among the arguments,
            else the default stream.
        device : str, optional
            Left out, the device the kernel was made with, else where the arguments are, else the default one.
        **named
            Arguments by name, where the names are known.

        Returns
        -------
        Run or None
            The dumps of a kernel that was made with ``dump=``, once it is done; nothing of another.

        Raises
        ------
        CheckError
            The image, the metadata or the device says that this cannot run.
        ArgumentError
            An argument does not fit its parameter.
        DriverError
            The driver refused.
        Fault
            The kernel died on the emulator.
        """
        shape = grid_sizes(grid)
        values = (*args, *named.values()) if named else args
        loaded = self._load(self._choose(device, values))
        handle = self._stream(stream, values, loaded.device)
        ctas = self._ctas(shape)
        if 0 not in shape:
            self._refuse(loaded, ctas)  # before the arguments: a file that is wrong explains wrong arguments
        packed = loaded.packer.pack(args, named, driver=loaded.driver, device=loaded.device, stream=handle)
        buffer = None
        if self._captures is not None:
            axes = len(grid) if isinstance(grid, Sequence) else 1
            buffer = self._captures.buffer(shape, axes, loaded.subject.signature, packed.data)
        if 0 in shape:
            return None if buffer is None else buffer.empty()
        config = self._config(ctas, handle)
        function = self._function(loaded)
        scratch: list[tuple[str, int]] = []
        try:
            self._scratch(loaded, config, scratch)
            if buffer is not None:
                scratch.append(("dump", buffer.allocate(loaded.driver, loaded.device.ordinal, handle)))
            packed = loaded.packer.fill_hidden(packed, dict(scratch)) if scratch else packed
            loaded.driver.launch(function, config, packed)
            if buffer is not None:
                return buffer.collect()
        finally:
            for _, address in scratch:
                loaded.driver.free_scratch(address, loaded.device.ordinal, config.stream)
        launching.learn(self, loaded, function, config, device)
        return None

    def bind(
        self, *, grid: int | Sequence[int], stream: Any = None, device: str | Device | None = None
    ) -> Callable[..., Run | None]:
        """A callable that takes the arguments alone and launches with everything else settled.

        Parameters
        ----------
        grid, stream, device
            As for `launch`; without `stream`, torch's is looked up at each call. A call may give another one.

        Raises
        ------
        ArgumentError, DeviceUnavailable
            Grid or stream is none; there can be no such device.
        """
        if device is not None:
            Device.parse(device)
        shape = grid_sizes(grid)
        handle = None if stream is None else streams.handle(stream)
        explain = functools.partial(self.launch, grid, stream=stream, device=device)
        if self._captures is not None:
            return explain
        return launching.bind(self, explain, shape, handle, device)

    def __getitem__(self, grid: int | Sequence[int]) -> Callable[..., Run | None]:
        """``kernel[grid](...)``, as Triton writes it: `bind` with a grid alone."""
        return self.bind(grid=grid)

    def debug(self, grid: Any, *args: Any, commands: Sequence[str] | None = None, **named: Any) -> Session:
        """Launch on the emulator under its debugger: `trlaunch.emulator.debugger.debug`."""
        from trlaunch.emulator.debugger import debug

        return debug(self, grid, args, named, commands)

    # --- steps of a launch -------------------------------------------------------------------------------------------

    def _choose(self, device: str | Device | None, values: Sequence[Any]) -> Device:
        """The device asked for, else the kernel's own, else the one the arguments are on, else the default."""
        if device is not None:
            return Device.parse(device)
        if self._given_device is not None:
            return self._given_device
        place = place_of(values)
        if place is not None:
            return Device.parse(place)
        return default_device(self.target.backend)

    def _stream(self, stream: Any, values: Sequence[Any], device: Device) -> int:
        if stream is not None:
            given = streams.handle(stream)
            return 0 if device.driver == "emulator" else given
        if device.driver == "emulator":
            return 0
        return streams.current_torch_stream(flatten(values), device.ordinal) or 0

    def _ctas(self, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        """CTAs along each axis: Triton counts programs, and a program is a cluster."""
        cluster = self.metadata.cluster if self.metadata else (1, 1, 1)
        return (grid[0] * cluster[0], grid[1] * cluster[1], grid[2] * cluster[2])

    def _config(self, ctas: tuple[int, int, int], stream: int) -> LaunchConfig:
        metadata = self.metadata
        return LaunchConfig(
            grid=ctas,
            block=(self.threads or 1, 1, 1),
            cluster=metadata.cluster if metadata else (1, 1, 1),
            shared=self.shared or 0,
            cooperative=metadata.cooperative if metadata else False,
            pdl=metadata.pdl if metadata else False,
            stream=stream,
        )

    def _scratch(self, loaded: _Loaded, config: LaunchConfig, granted: list[tuple[str, int]]) -> None:
        """Allocate what the metadata asks for; `granted` has the addresses so far even when one fails."""
        metadata = self.metadata
        ctas = config.grid[0] * config.grid[1] * config.grid[2]
        for param in loaded.subject.signature.hidden:
            size = getattr(metadata, f"{param.role}_size", None)
            if size:
                align = getattr(metadata, f"{param.role}_align")
                ordinal = loaded.device.ordinal
                address = loaded.driver.allocate_scratch(size * ctas, align, ordinal, config.stream)
                granted.append((param.role, address))
                if param.role == "profile_scratch":  # as Triton's default allocator does: the profiler adds to it
                    loaded.driver.clear(address, size * ctas, ordinal, config.stream)

    # --- the audit ---------------------------------------------------------------------------------------------------

    def _refuse(self, loaded: _Loaded, ctas: tuple[int, int, int]) -> None:
        """Raise (or warn) when the launch cannot run; what was found right once is not asked again."""
        if ctas in loaded.grids:
            return
        findings = loaded.findings
        if not any(f.severity == "error" for f in findings):
            findings += self._audit_grid(loaded, ctas)
        self._raise(self._report(loaded, findings), f"{self.name} was not launched on {loaded.device}")
        if len(loaded.grids) < 4096:
            loaded.grids.add(ctas)

    def _raise(self, report: Report, what: str) -> None:
        if report.ok:
            return
        reasons = "; ".join(f"{f.rule}: {f.message}" + (f"; {f.hint}" if f.hint else "") for f in report.errors)
        if self._check == "error":
            raise CheckError(f"{what}: {reasons}", report)
        warn(f"check='warn' lets this pass: {reasons}", CheckWarning)

    def _audit_grid(self, loaded: _Loaded, ctas: tuple[int, int, int]) -> tuple[Finding, ...]:
        cooperative = self.metadata.cooperative if self.metadata else False

        def occupancy() -> int:
            return loaded.driver.occupancy(self._function(loaded), self._config(ctas, 0))

        usable = all(f.severity != "error" for f in loaded.findings)
        return audit_grid(loaded.subject, ctas, cooperative, occupancy if usable else None)

    def _report(self, loaded: _Loaded, findings: tuple[Finding, ...]) -> Report:
        image = loaded.subject.image
        title = f"{self.name} ({image.format}, {image.target}) on {loaded.device} ({loaded.properties.name})"
        return Report(title, findings)

    # --- loading -----------------------------------------------------------------------------------------------------

    def _load(self, device: Device) -> _Loaded:
        loaded = self._loaded.get(device)
        if loaded is not None:
            return loaded
        with self._lock:
            loaded = self._loaded.get(device)
            if loaded is None:
                loaded = self._loaded[device] = self._audited(device)
            return loaded

    def _audited(self, device: Device) -> _Loaded:
        driver = get(device.driver)
        properties = driver.properties(device.ordinal)
        image, driver_compiles = self.code.image_for(properties, self.name)
        entry = image.kernel(self.name)
        signature = self.signature
        if image is not self.image:  # other offsets: ptxas moves parameters so that tensor maps are aligned
            signature = self.code.signature(entry, image.format, self._given_signature)
        ttgir = self.code.texts.get(Level.TTGIR)
        path = self.artifact.path
        subject = Subject(
            image=image,
            entry=entry,
            source_target=self.image.target,
            metadata=self.metadata,
            signature=signature,
            device=properties,
            shared=self.shared,
            shared_given=self._given_shared is not None,
            threads=self.threads,
            ttgir=ttgir,
            stem=path.stem if path else None,
            folder=path.parent.name if path else None,
            driver_compiles=driver_compiles,
        )
        packer = Packer(self.name, signature, self.metadata)
        return _Loaded(driver, properties, subject, packer, audit(subject))

    def _function(self, loaded: _Loaded) -> Function:
        if loaded.function is None:
            function = loaded.driver.load(loaded.subject.image, self.name, loaded.device.ordinal)
            loaded.driver.prepare(function, self.shared or 0)
            loaded.function = function
        return loaded.function

    def __repr__(self) -> str:
        return f"trlaunch.Kernel({self.name!r}, {self.level}, {self.target})"


def _captures(artifact: Artifact, dump: Any, name: str | None, limit: int | None) -> Captures | None:
    if dump is None:
        return None
    from trlaunch.dump.capture import instrument

    return instrument(artifact, dump, name, limit)


def _name_in(metadata: Metadata | None, image: Image) -> str | None:
    """The metadata's name, unless the image has one kernel of another name: the audit reports that pair."""
    if metadata is None or metadata.name is None:
        return None
    if metadata.name not in image.kernels and len(image.kernels) == 1:
        return None
    return metadata.name
