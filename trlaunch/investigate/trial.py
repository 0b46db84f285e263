"""Trial: one launch as data, to be run in a process of its own; Outcome: what became of it.

Both can be pickled, so that trials run through any `concurrent.futures.Executor`, and a trial is a folder when saved.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.artifact import Artifact, Level
from trlaunch.dump.request import At, requests
from trlaunch.errors import ArgumentError, ArtifactError, CheckError, DriverError, Fault, TrlaunchError
from trlaunch.finding import Finding
from trlaunch.investigate.arrays import load_arrays, save_arrays
from trlaunch.investigate.carried import Carried, Spot, carry
from trlaunch.kernel import Kernel

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CORES", "STATUSES", "Died", "Launched", "Outcome", "Scene", "Spot", "Trial", "as_plain"]

#: What becomes of a trial.
STATUSES = {
    "ok": "the kernel ended",
    "refused": "trlaunch refused the launch: the files, the arguments or the device say that it cannot run",
    "error": "a call of the driver failed",
    "fault": "the kernel died",
    "hang": "the kernel did not end",
    "killed": "the process died",
    "exit": "the program ended by itself with a status other than 0; no kernel died",
    "timeout": "the process did not come as far as the kernel",
}

#: Core dumps: none, without the contents of memory (a few MB), or with everything.
CORES = ("none", "light", "full")


@dataclass(frozen=True, slots=True)
class Trial:
    """One launch as data: files, arguments by value, settings. Made by `Trial.of`.

    Attributes
    ----------
    files : mapping of str to bytes
        The kernel's file, its JSON and the other levels beside it, by file name.
    file : str
        Which of them is launched.
    folder : str
        Name of the folder they lay in: Triton's cache names it for the kernel's hash.
    grid : tuple of int
    arguments : Carried
    name, signature, shared, target, options, dump, dump_limit
        As for `Kernel.from_file`.
    device : str or None
        ``"cuda:1"``, ``"emulator"``; ``None`` for the default one of the process that runs it.
    check : {"warn", "error"}
        Whether an error of the audit refuses the launch.
    repeat : int
        Launches one after another, before anything waits for them.
    blocking : bool
        Have the driver wait for each launch, so that an error belongs to the launch that reports it.
    core : {"none", "light", "full"}
        The GPU core dump that is asked for; the process ends with it.
    core_limit : int
        Bytes of core dump above which the process is ended.
    ring : int
        Last launches that are kept.
    keep_outputs : bool
        Whether the outcome has the tensors as the kernel left them.
    settle : float
        Seconds after the last launch is done on a GPU until the driver is asked once more: an error of a warp that has
        exited comes late.
    step_limit : int or None
        Basic blocks that the emulator runs before it says where the kernel is and gives up.
    environment : mapping of str to str
        More environment variables of the process.
    """

    files: Mapping[str, bytes] = field(repr=False)
    file: str
    grid: tuple[int, ...]
    arguments: Carried = field(default_factory=Carried, repr=False)
    folder: str = "kernel"
    name: str | None = None
    signature: Any = None
    shared: int | None = None
    target: str | None = None
    options: Mapping[str, Any] | None = None
    dump: tuple[At, ...] = ()
    dump_limit: int | None = 1 << 30
    device: str | None = None
    check: str = "warn"
    repeat: int = 1
    blocking: bool = False
    core: str = "none"
    core_limit: int = 1 << 30
    ring: int = 64
    keep_outputs: bool = True
    settle: float = 0.05
    step_limit: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        source: str | Path | Artifact | Kernel,
        metadata: str | Path | Mapping[str, Any] | None = None,
        *,
        grid: int | Sequence[int],
        args: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
        dump: Any = None,
        **settings: Any,
    ) -> Trial:
        """A trial of a launch.

        Parameters
        ----------
        source : path, Artifact or Kernel
            A kernel's file, a folder of Triton's cache, an artifact, or a kernel with the settings it was made with.
        metadata : path or mapping, optional
            Triton's JSON; left out, the one beside the file.
        grid : int or sequence of int
        args : sequence
            As `Kernel.launch` takes them, and besides ``None`` for a null pointer and specifications of the argument
            language: ``"rand:fp16:512x512"``. NumPy arrays are copied to the device.
        named : mapping, optional
            Arguments by name.
        dump : str, At or sequence of them, optional
            As for `Kernel.from_file`.
        **settings
            The other fields: ``device="cuda:0"``, ``shared=``, ``check=``, ``core=``.

        Raises
        ------
        ArgumentError
            A setting or an argument is not understood.
        ArtifactError, MetadataError
            A file cannot be read.
        """
        if isinstance(source, Kernel):
            given = {
                "name": source.name,
                "signature": source._given_signature,
                "shared": source._given_shared,
                "device": None if source._given_device is None else str(source._given_device),
            }
            settings = {**{key: value for key, value in given.items() if value is not None}, **settings}
            # What options and target made of it; a kernel with dumps is tried without them.
            artifact = source.code.ready if source.code.captures is None else source.artifact
        elif isinstance(source, Artifact):
            artifact = source
        elif Path(source).is_dir():
            artifact = Artifact.from_cache(source, settings.get("name"))
        else:
            artifact = Artifact.from_file(source, metadata)
        if metadata is not None and isinstance(source, (Artifact, Kernel)):
            artifact = replace(artifact, metadata=Artifact.from_bytes(artifact.data, metadata, artifact.level).metadata)
        _check(cls, settings)
        files, file, folder = _files(artifact)
        plain: dict[str, Any] = {
            key: str(value) if key in ("device", "target") and value else value for key, value in settings.items()
        }
        return cls(
            files=files,
            file=file,
            folder=folder,
            grid=_grid(grid),
            arguments=carry(args, named),
            dump=() if dump is None else tuple(requests(dump)),
            **plain,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the trial into a folder: ``trial.json``, ``arguments.npz``, and the kernel's files below it.

        Returns
        -------
        pathlib.Path
            The folder.
        """
        folder = Path(folder)
        inner = folder / self.folder
        inner.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (inner / name).write_bytes(data)
        state = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("files", "arguments")
        }
        state["dump"] = [dataclasses.asdict(at) for at in self.dump]
        state["arguments"] = self.arguments.to_dict()
        (folder / "trial.json").write_text(json.dumps(state, indent=1, default=_jsonable))
        regions = {f"region{i}": np.frombuffer(r.data, np.uint8) for i, r in enumerate(self.arguments.regions)}
        save_arrays(folder / "arguments.npz", regions)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Trial:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            The folder holds no trial.
        """
        folder = Path(folder)
        try:
            state = json.loads((folder / "trial.json").read_text())
            arrays = load_arrays(folder / "arguments.npz")
            regions = [arrays[f"region{i}"].tobytes() for i in range(len(arrays))]
            carried = Carried.from_dict(state.pop("arguments"), regions)
            files = {path.name: path.read_bytes() for path in sorted((folder / state["folder"]).iterdir())}
            state |= {"grid": tuple(state["grid"]), "dump": tuple(_at(at) for at in state["dump"])}
            return cls(files=files, arguments=carried, **state)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{str(folder)!r} holds no trial that can be read: {error}") from None

    def kernel(self, folder: Path) -> Kernel:
        """The kernel of a trial that was saved to `folder`."""
        path = folder / self.folder / self.file
        return Kernel.from_file(
            path,
            name=self.name,
            signature=self.signature,
            device=self.device,
            shared=self.shared,
            check=self.check,
            target=self.target,
            options=self.options,
            dump=list(self.dump) or None,
            dump_limit=self.dump_limit,
        )


def _check(cls: type[Trial], settings: Mapping[str, Any]) -> None:
    known = {f.name for f in dataclasses.fields(cls)} - {"files", "file", "folder", "grid", "arguments", "dump"}
    if unknown := sorted(settings.keys() - known):
        raise ArgumentError(f"{unknown[0]}= is no setting of a trial: expected {', '.join(sorted(known))}")
    if settings.get("check", "warn") not in ("warn", "error"):
        raise ArgumentError(f"check={settings['check']!r}: expected 'warn' or 'error'")
    if settings.get("core", "none") not in CORES:
        raise ArgumentError(f"core={settings['core']!r}: expected one of {', '.join(CORES)}")
    for key in ("repeat", "ring", "core_limit"):
        if settings.get(key, 1) < 1:
            raise ArgumentError(f"{key}={settings[key]!r}: expected a positive number")


def _files(artifact: Artifact) -> tuple[dict[str, bytes], str, str]:
    path = artifact.path
    stem = path.stem if path else (artifact.metadata.name if artifact.metadata else None) or "kernel"
    file = path.name if path else f"{stem}.{artifact.level}"
    files = {file: artifact.data}
    for level in artifact.siblings:
        beside = artifact.sibling(level)
        if beside is not None and beside.level not in (Level.PYTHON, Level.GLUON):
            files[f"{stem}.{level}"] = beside.data
    if artifact.metadata is not None:
        files[f"{stem}.json"] = json.dumps(dict(artifact.metadata.raw), default=_jsonable).encode()
    folder = path.parent.name if path else ""
    return files, file, folder or "kernel"


def _grid(grid: int | Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = (int(grid),) if isinstance(grid, int) else tuple(int(size.__index__()) for size in grid)
    except (TypeError, AttributeError):
        sizes = ()
    if not 1 <= len(sizes) <= 3 or min(sizes) < 0:
        raise ArgumentError(f"grid={grid!r:.60}: expected an int or one to three ints, none negative")
    return sizes


def _at(state: dict[str, Any]) -> At:
    for key in ("programs", "part"):
        if isinstance(state[key], list):
            state[key] = tuple(tuple(item) if isinstance(item, list) else item for item in state[key])
    return At(**state)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)


# --- what became of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launched:
    """One launch, as the ring keeps it.

    Attributes
    ----------
    index : int
        From 0, over all launches of the process.
    state : {"launching", "queued"}
        Whether the driver had taken it when the process ended.
    kernel, device, grid, block, cluster, shared, cooperative, stream
    parameters : str
        The parameter buffer in hexadecimal.
    buffers : tuple of Spot
        The memory that its arguments refer to.
    image : str
        Name of the file that the image was kept in, beside the ring.
    time : float
        Seconds since the epoch.
    """

    index: int
    kernel: str
    device: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared: int = 0
    cooperative: bool = False
    stream: int = 0
    parameters: str = ""
    buffers: tuple[Spot, ...] = ()
    image: str = ""
    time: float = 0.0
    state: str = "queued"

    @property
    def shape(self) -> str:
        """Grid, block and what else there is of the configuration."""
        grid, block = (",".join(map(str, _short(size))) for size in (self.grid, self.block))
        cluster = f", clusters of ({','.join(map(str, _short(self.cluster)))})" if self.cluster != (1, 1, 1) else ""
        shared = f", {self.shared} bytes of shared memory" if self.shared else ""
        return f"grid ({grid}) block ({block}){cluster}{shared}" + (", cooperative" if self.cooperative else "")

    def __str__(self) -> str:
        return f"{self.kernel}, launch {self.index}: {self.shape} on {self.device}"


@dataclass(frozen=True, slots=True)
class Died:
    """The error a trial ended with.

    Attributes
    ----------
    type : str
        Of the exception: ``"DriverError"``, ``"Fault"``, ``"CheckError"``.
    message : str
    call, name, code
        Of a `DriverError`: the function that reported it, and its status.
    kind, cta, thread, address, ptx_line, source
        Of a `Fault` of the emulator.
    log : str
        What an assembler or compiler said.
    """

    type: str
    message: str
    call: str | None = None
    name: str | None = None
    code: int | None = None
    kind: str | None = None
    cta: tuple[int, ...] | None = None
    thread: tuple[int, ...] | None = None
    address: int | None = None
    ptx_line: int | None = None
    source: str | None = None
    log: str = ""

    @classmethod
    def of(cls, error: TrlaunchError) -> Died:
        """An exception as data."""
        died = cls(type(error).__name__, str(error), log=str(getattr(error, "log", "")))
        if isinstance(error, DriverError):
            return replace(died, call=error.call, name=error.name, code=error.code)
        if isinstance(error, Fault):
            fields = ("kind", "cta", "thread", "address", "ptx_line", "source")
            return replace(died, **{key: getattr(error, key) for key in fields})
        if isinstance(error, CheckError):
            return replace(died, log="\n".join(map(str, error.report.errors)))
        return died

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Died:
        """What `dataclasses.asdict` made, read from JSON."""
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in state.items()}
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the process knew before it launched.

    Attributes
    ----------
    kernel, level, target, device, device_name, device_target
    threads : int or None
        Per block.
    shared : int or None
        Dynamic shared memory in bytes.
    image : mapping of str to object
        What the image says of the kernel (`trlaunch.ImageKernel`), without its parameters.
    parameters : tuple of mapping
        ``label``, ``name``, ``offset``, ``size``, ``type``, ``role`` and ``divisibility`` of each.
    spots : tuple of Spot
        Where the tensors lie in this process.
    findings : tuple of Finding
        Of the audit.
    assembled : str or None
        Name of the image file, beside the ring, that the device loaded.
    """

    kernel: str
    level: str
    target: str
    device: str
    device_name: str = ""
    device_target: str = ""
    threads: int | None = None
    shared: int | None = None
    image: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Mapping[str, Any], ...] = ()
    spots: tuple[Spot, ...] = ()
    findings: tuple[Finding, ...] = ()
    assembled: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial.

    Attributes
    ----------
    status : str
        One of `STATUSES`.
    error : Died or None
    scene : Scene or None
        ``None`` when the process did not come that far.
    launches : tuple of Launched
        The last ones, oldest first.
    phase : {"", "launching", "waiting"}
        What the process was doing with the driver when it ended.
    core : bytes or None
        The GPU core dump.
    images : mapping of str to bytes
        What was loaded, by the names that `Launched.image` has.
    outputs : mapping of str to ndarray
        Tensors by argument name (or ``arg0``), as the kernel left them.
    dumps : mapping of str to ndarray
        Values captured in the kernel.
    notes : tuple of str
        Warnings of the process.
    stdout, stderr : str
        Their last 64 KiB.
    returncode : int or None
        Negative: the signal that ended the process. ``None``: the time limit did.
    seconds : float
        From start to end of the process.
    kernel_seconds : float or None
        From the launch until the device was done.
    """

    status: str
    error: Died | None = None
    scene: Scene | None = None
    launches: tuple[Launched, ...] = ()
    phase: str = ""
    core: bytes | None = field(default=None, repr=False)
    images: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)
    dumps: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)
    returncode: int | None = None
    seconds: float = 0.0
    kernel_seconds: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the kernel ended without an error."""
        return self.status == "ok"

    @property
    def last(self) -> Launched | None:
        """The last launch."""
        return self.launches[-1] if self.launches else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but bytes and arrays."""
        left_out = ("core", "images", "outputs", "dumps")
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        return {key: as_plain(value) for key, value in found.items()} | {"core_bytes": len(self.core or b"")}


def as_plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as dictionaries and lists, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    return value


def _short(size: Sequence[int]) -> Sequence[int]:
    """A shape without its trailing ones, ``(8, 8)`` for ``(8, 8, 1)``."""
    kept = list(size)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return kept
