"""`trlaunch.investigate`: run a launch in isolation, find what it dies of, and say so."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trlaunch import devices
from trlaunch.artifact import Artifact, Level
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, CoreDumpError, UnsupportedInstruction
from trlaunch.investigate.causes import causes
from trlaunch.investigate.evidence import Evidence, Site
from trlaunch.investigate.isolation import run
from trlaunch.investigate.report import Report
from trlaunch.investigate.sites import core_site, fault_site
from trlaunch.investigate.trial import Launched, Outcome, Trial
from trlaunch.kernel import Kernel

__all__ = ["WITNESS", "blame", "investigate", "investigate_trial", "launch_here", "sites_of"]

#: When the emulator is asked.
WITNESS = ("auto", "always", "never")

#: Basic blocks (20 to 100 microseconds each) after which the emulator gives up on a kernel that it is a witness of, and
#: after which it says where a kernel is that did not end within the time limit.
_WITNESS_STEPS = 200_000
_STEPS = 20_000
#: Of the latter, how many are run a second of time limit, and at least.
_STEPS_A_SECOND = 1000
_FEWEST_STEPS = 1000
#: Seconds that the run that says where it is has at least, for the start of its process.
_STARTS = 5.0
#: Seconds after a launch in which its core dump must begin. Where the warp that faulted has exited (a store at the end
#: of a kernel) the launch counts as done before the driver notices; seen on an H200, driver 580.
_CORE_COMES = 1.0
#: Seconds that the emulator is waited for as a witness.
_WITNESS_SECONDS = 40.0
#: Seconds that a kernel is waited for in a replay that is to leave a core dump of a hang.
_HANGS = 5.0


def investigate(
    source: str | Path | Artifact | Kernel,
    metadata: str | Path | Mapping[str, Any] | None = None,
    *,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    timeout: float = 60.0,
    core: str = "light",
    witness: str = "auto",
    **settings: Any,
) -> Report:
    """Launch a kernel in a process of its own, and find out what it dies of.

    The launch runs up to three times: as it is; if it dies on a GPU, once more with every launch waited for and a core
    dump; and on the emulator, where its PTX is at hand, which names the line. The caller's process launches nothing.

    Parameters
    ----------
    source : path, Artifact or Kernel
        A kernel's file, a folder of Triton's cache, or a kernel with its settings.
    metadata : path or mapping, optional
        Triton's JSON; left out, the one beside the file.
    grid : int or sequence of int
    args : sequence
        As `Kernel.launch` takes them: tensors are copied with how they lie in memory. Besides, ``None`` is a null
        pointer, and strings are specifications of the command line's language: ``"rand:fp16:512x512"``.
    named : mapping, optional
        Arguments by name.
    timeout : float
        Seconds for each run; a kernel that takes longer counts as hung.
    core : {"light", "full", "none"}
        GPU core dump of the second run: without the contents of memory, with them, or none.
    witness : {"auto", "always", "never"}
        Whether the emulator is asked, too: if the launch dies; even if it ends, for what a GPU does without a word
        (wrong data through a wrong descriptor, reads of what nobody wrote); or not at all.
    **settings
        Of the trial: ``device=``, ``name=``, ``signature=``, ``shared=``, ``options=``, ``target=``,
        ``check="error"`` (by default the audit only warns: it is evidence), ``repeat=``, ``environment=``.

    Returns
    -------
    Report
        ``print`` shows it; ``.causes`` has the likeliest first; ``.save("repro/")`` writes a reproducer.

    Raises
    ------
    ArgumentError
        A setting or an argument is not understood, or cannot be carried to another process.
    ArtifactError, MetadataError
        The files cannot be read.

    Examples
    --------
    >>> report = trlaunch.investigate("k.ptx", grid=2, args=["ones:fp32:1000", 2000])  # doctest: +SKIP
    >>> report.cause.rule  # doctest: +SKIP
    'out-of-bounds'
    """
    trial = Trial.of(source, metadata, grid=grid, args=args, named=named, **settings)
    return investigate_trial(trial, timeout=timeout, core=core, witness=witness)


def investigate_trial(trial: Trial, *, timeout: float = 60.0, core: str = "light", witness: str = "auto") -> Report:
    """As `investigate`, of a trial."""
    if witness not in WITNESS:
        raise ArgumentError(f"witness={witness!r}: expected one of {', '.join(WITNESS)}")
    begun = time.time()
    first = run(replace(trial, core="none"), timeout)
    delay = first.launches[0].time - begun if first.launches else timeout
    again = _replay(trial, first, timeout, delay, core)
    second = _witness(trial, first, timeout, witness)
    texts = _texts(trial, (first, again, second))
    blamed, blamed_by = blame(first, again)
    evidence = Evidence(
        outcome=first,
        trial=trial,
        replay=again,
        witness=second,
        sites=tuple(_sites(trial, (first, again), second, texts)),
        blamed=blamed,
        blamed_by=blamed_by,
        texts=texts,
    )
    return Report(evidence, causes(evidence))


def launch_here(trial: Trial) -> None:
    """Launch a trial in this process, and wait for it: under a debugger, a profiler or compute-sanitizer.

    Raises
    ------
    TrlaunchError
        As `Kernel.launch`.
    """
    with tempfile.TemporaryDirectory(prefix="trlaunch-trial-") as name:
        folder = trial.save(name)
        kernel = trial.kernel(folder)
        device = kernel.device
        put = trial.arguments.put(device, [p.name for p in kernel.signature.user])
        for _ in range(trial.repeat):
            kernel.launch(trial.grid, *put.args, device=device, **put.named)
        devices.get(device.driver).synchronize(device.ordinal)


# --- the runs --------------------------------------------------------------------------------------------------------


def _replay(trial: Trial, first: Outcome, timeout: float, delay: float, core: str) -> Outcome | None:
    """The second run of a launch that died."""
    device = _device(trial, first)
    if first.ok or first.status in ("refused", "timeout") or device is None:
        return None
    if device.driver == "emulator":
        if first.status != "hang" or (first.error is not None and first.error.type == "Fault"):
            return None
        # To be told where it is: as many blocks as fit in the time limit, once Python has started.
        steps = max(_FEWEST_STEPS, min(_STEPS, int(timeout * _STEPS_A_SECOND)))
        return run(replace(trial, step_limit=steps), max(timeout, _STARTS))
    if first.status == "hang":
        timeout = min(timeout, delay + _HANGS)
    core = core if device.driver == "cuda" else "none"
    settle = trial.settle if core == "none" else max(trial.settle, _CORE_COMES)
    return run(replace(trial, blocking=True, core=core, settle=settle), timeout)


def _witness(trial: Trial, first: Outcome, timeout: float, when: str) -> Outcome | None:
    """The same launch on the emulator."""
    device = _device(trial, first)
    if when == "never" or (first.ok and when == "auto") or first.status in ("refused", "timeout"):
        return None
    if device is None or device.driver != "cuda":
        return None
    asked = replace(trial, device="emulator", check="warn", keep_outputs=False, repeat=1, step_limit=_WITNESS_STEPS)
    return run(asked, min(timeout, _WITNESS_SECONDS))


def _device(trial: Trial, outcome: Outcome) -> Device | None:
    if outcome.scene is not None:
        return Device.parse(outcome.scene.device)
    if outcome.last is not None:
        return Device.parse(outcome.last.device)
    return None if trial.device is None else Device.parse(trial.device)


def _texts(trial: Trial, outcomes: Sequence[Outcome | None]) -> dict[str, str]:
    """The text levels of a trial's kernel, those included that a run made on the way."""
    found = {}
    for level in (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.AMDGCN):
        name = next((n for n in trial.files if n.endswith(f".{level}")), None)
        if name is not None:
            found[str(level)] = trial.files[name].decode("utf-8", "replace")
    for outcome in outcomes:
        for name, data in (outcome.images if outcome is not None else {}).items():
            if name.endswith(".ptx"):
                found.setdefault("ptx", data.decode("utf-8", "replace"))
    return found


def _sites(
    trial: Trial, runs: Sequence[Outcome | None], witness: Outcome | None, texts: Mapping[str, str]
) -> list[Site]:
    found = []
    for outcome in runs:
        if outcome is not None and outcome.core is not None:
            with tempfile.TemporaryDirectory(prefix="trlaunch-levels-") as name:
                folder = Path(name)
                _levels(folder, trial, outcome)
                found.append(sites_of(outcome, folder))
            break
    for outcome in (*runs, witness):
        site = None if outcome is None else fault_site(outcome, texts)
        if site is not None:
            found.append(site)
            break
    return found


def _levels(folder: Path, trial: Trial, outcome: Outcome) -> None:
    """The kernel's files, with the cubin that the device loaded beside them."""
    stem = Path(trial.file).stem
    for name, data in trial.files.items():
        (folder / name).write_bytes(data)
    image = outcome.last.image if outcome.last else ""
    if image.endswith(".cubin") and f"{stem}.cubin" not in trial.files:
        (folder / f"{stem}.cubin").write_bytes(outcome.images[image])


def sites_of(outcome: Outcome, folder: Path | None) -> Site:
    """Where the core dump of a run says that it died; a dump that cannot be read is a site that says so."""
    assert outcome.core is not None
    spots = outcome.last.buffers if outcome.last else outcome.scene.spots if outcome.scene else ()
    try:
        return core_site(outcome.core, folder, spots)
    except (CoreDumpError, UnsupportedInstruction) as error:
        return Site("core dump", None, f"it cannot be read: {error}", spots=tuple(spots))


def blame(first: Outcome, replay: Outcome | None) -> tuple[Launched | None, str]:
    """The launch that did it, and how that is known.

    A CUDA error shows at some call after the launch that caused it. Where each launch is waited for, the last one in
    the ring is the one.
    """
    if first.ok or first.status in ("refused", "timeout", "exit") or not first.launches:
        return None, ""
    last = first.launches[-1]
    if last.device == "emulator":
        return last, "the emulator runs one launch after another"
    if replay is not None and replay.launches and not replay.ok:
        found = replay.launches[-1]
        if found.index == last.index:
            return found, "the replay, in which each launch is waited for, died in the same one"
        return found, (
            f"the replay, in which each launch is waited for, died there; without waiting the error showed after "
            f"launch {last.index} ({last.kernel})"
        )
    if replay is not None and replay.ok:
        return last, "the last one; the replay, in which each launch is waited for, did not die"
    if len(first.launches) == 1 and last.index == 0:
        return last, "the only one"
    return last, "the last one before the error showed; an earlier one may have caused it"
