"""Evidence: everything that is known of a kernel that died, in one place for the rules and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trlaunch.finding import Finding
from trlaunch.investigate import symptoms
from trlaunch.investigate.carried import Address, Spot, labels
from trlaunch.investigate.trial import Died, Launched, Outcome, Scene, Trial
from trlaunch.metadata import Metadata

__all__ = ["NULL_PAGE", "Evidence", "Line", "Site", "nearest"]

#: Addresses below this are a null pointer with an offset: no driver maps the first page.
NULL_PAGE = 65536


@dataclass(frozen=True, slots=True)
class Line:
    """A line of one level: ``python``, ``ttir``, ``ttgir``, ``llir``, ``ptx``, ``sass``."""

    level: str
    file: str
    line: int | None
    text: str = ""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{self.level:<6} {where}" + (f"  {self.text.strip()}" if self.text.strip() else "")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a kernel died, as one witness tells it.

    Attributes
    ----------
    witness : {"core dump", "emulator", "compute-sanitizer"}
    symptom : str or None
        Of `trlaunch.investigate.symptoms`.
    what : str
        The witness's own words: ``"Warp Misaligned Address"``.
    kernel : str or None
    cta, thread : tuple of int or None
        Of the first thread that is named.
    instruction : str
        SASS or PTX.
    address, access : int or None
        What was accessed in global memory, and its size in bytes.
    operands : tuple of (str, str)
        Names and values for that thread.
    coordinates : tuple of int
        Of a tensor copy, innermost first, in elements.
    lines : tuple of Line
        Innermost level first: SASS, PTX, LLIR, TTGIR, TTIR, Python.
    lanes : int
        Threads that died there, as far as known.
    spots : tuple of Spot
        Where the arguments lay in the process that this is about.
    launch : str
        Grid, block, registers and shared memory as the witness has them.
    threads : int or None
        Per block, as the witness has it.
    notes : tuple of str
        What the witness could not tell.
    """

    witness: str
    symptom: str | None
    what: str
    kernel: str | None = None
    cta: tuple[int, ...] | None = None
    thread: tuple[int, ...] | None = None
    instruction: str = ""
    address: int | None = None
    access: int | None = None
    operands: tuple[tuple[str, str], ...] = ()
    coordinates: tuple[int, ...] = ()
    lines: tuple[Line, ...] = ()
    lanes: int = 1
    spots: tuple[Spot, ...] = ()
    launch: str = ""
    threads: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one death.

    Attributes
    ----------
    outcome : Outcome
        Of the first run.
    trial : Trial or None
        ``None`` for a whole program.
    replay : Outcome or None
        The same run with each launch waited for, and with a core dump.
    witness : Outcome or None
        The same launch on the emulator.
    sites : tuple of Site
        Where it died; the device's own account first.
    blamed : Launched or None
        The launch that did it.
    blamed_by : str
        How that is known.
    texts : mapping of str to str
        Text levels of the kernel.
    """

    outcome: Outcome
    trial: Trial | None = None
    replay: Outcome | None = None
    witness: Outcome | None = None
    sites: tuple[Site, ...] = ()
    blamed: Launched | None = None
    blamed_by: str = ""
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def died(self) -> Died | None:
        """The error, by its most telling form: of the driver before that of a killed process."""
        errors = [o.error for o in (self.outcome, self.replay) if o is not None and o.error is not None]
        return next((e for e in errors if e.type in ("DriverError", "Fault")), errors[0] if errors else None)

    @property
    def symptom(self) -> str | None:
        """What the device showed; a core dump's exception is finer than a status, unless that is an assert."""
        error = self.died
        stated = None if error is None else symptoms.of_fault(error.kind) or symptoms.of_status(_driver_code(error))
        if self.outcome.status == "hang":
            return "hang"
        own = next((s.symptom for s in self.sites if s.witness != "emulator" and s.symptom), None)
        if stated == "assert" or own is None:
            return stated
        return own

    @property
    def status_symptom(self) -> str | None:
        """What the driver's status alone says."""
        return None if self.died is None else symptoms.of_status(_driver_code(self.died))

    @property
    def scene(self) -> Scene | None:
        """What was known before the launch."""
        return next((o.scene for o in (self.outcome, self.replay, self.witness) if o and o.scene), None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The audit's findings that would have refused the launch."""
        scene = self.scene
        return () if scene is None else tuple(f for f in scene.findings if f.severity == "error")

    @property
    def own_site(self) -> Site | None:
        """Where the device says that it died; of a trial on the emulator, the emulator."""
        devices = [self.scene.device] if self.scene else [self.blamed.device] if self.blamed else []
        on_emulator = "emulator" in devices
        return next((s for s in self.sites if on_emulator or s.witness != "emulator"), None)

    @property
    def said(self) -> str:
        """What the processes printed."""
        runs = [o for o in (self.outcome, self.replay) if o is not None]
        return "\n".join(text for o in runs for text in (o.stderr, o.stdout) if text.strip())

    @property
    def element_sizes(self) -> tuple[int, ...]:
        """Bytes an element of the tensors that the kernel has descriptors of, as its metadata states them."""
        if self.trial is None:
            return ()
        name = next((n for n in self.trial.files if n.endswith(".json")), None)
        if name is None:
            return ()
        metadata = Metadata.from_json(self.trial.files[name], name)
        return tuple(sorted({d.element_size for d in metadata.tensor_descriptors}))

    @property
    def ptx(self) -> str:
        """The kernel's PTX; empty where there is none."""
        return self.texts.get("ptx", "")

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Arguments that are bare addresses, by label."""
        if self.trial is None:
            return ()
        carried = self.trial.arguments
        names = [p["name"] for p in self.scene.parameters if p["role"] == "user"] if self.scene else []
        pairs = [*zip(labels(carried.positional, names), carried.positional, strict=True), *carried.named.items()]
        return tuple((label, value.address) for label, value in pairs if isinstance(value, Address))


def _driver_code(error: Died) -> int | None:
    return error.code if error.type == "DriverError" else None


def nearest(address: int, spots: Sequence[Spot], size: int = 1) -> tuple[Spot, int, str] | None:
    """The argument nearest to an access: how many bytes apart (0: inside), and in words.

    Parameters
    ----------
    address : int
    spots : sequence of Spot
    size : int
        Bytes of the access.
    """
    real = [s for s in spots if s.nbytes]
    if not real:
        return None

    def distance(spot: Spot) -> int:
        return max(spot.address - address, address + size - (spot.address + spot.nbytes), 0)

    spot = min(real, key=distance)
    missed = distance(spot)
    whole = f"{spot.label} ({spot.nbytes} bytes from {spot.address:#x})"
    if not missed:
        return spot, 0, f"{address - spot.address} bytes into {whole}"
    if address < spot.address:
        return spot, missed, f"{spot.address - address} bytes before {whole}"
    return spot, missed, f"{address - spot.address - spot.nbytes} bytes past the end of {whole}"
