"""From a report or a core dump to the page: what the cards say, and the levels with the keys that link their lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch._version import __version__
from trlaunch.artifact import Level
from trlaunch.errors import ArtifactError, AssemblerError, CoreDumpError, ImageError
from trlaunch.investigate.html.page import CauseCard, Lane, Page, Pane, Row, Section, SiteCard
from trlaunch.source_lines import Chain, chains, own_line

if TYPE_CHECKING:
    from trlaunch.cuda.coredump import CoreDump
    from trlaunch.cuda.fault_site import CoreException
    from trlaunch.cuda.module_image import Function, ModuleImage
    from trlaunch.investigate.evidence import Evidence, Site
    from trlaunch.investigate.report import Report

__all__ = ["page_of_dump", "page_of_report"]

_TITLES = {"python": "Python", "ttir": "TTIR", "ttgir": "TTGIR", "llir": "LLIR", "ptx": "PTX", "sass": "SASS"}
_LEVELS = {"ttir": Level.TTIR, "ttgir": Level.TTGIR, "llir": Level.LLIR, "ptx": Level.PTX}
# Of a longer Python file only the part that the kernel came from is shown, with this many lines around.
_WHOLE_FILE, _AROUND = 3000, 40
# SASS and PTX of the largest kernels run to 50 000 lines, which a browser takes seconds for.
_MOST_ROWS = 20_000
_MADE_BY = f"trlaunch {__version__}"


@dataclass
class _Levels:
    """The levels on the way to panes: texts, chains, marks."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[Chain]] = field(default_factory=dict)
    marks: dict[str, set[int]] = field(default_factory=dict)
    # Where a Python file may lie besides where the compiler saw it.
    folders: tuple[Path, ...] = ()

    def add(self, level: str, text: str, file: str) -> None:
        """A text level."""
        if level not in _LEVELS or level in self.texts or not text.strip():
            return
        self.texts[level], self.files[level] = text, file
        try:
            self.chains[level] = chains(_LEVELS[level], text)
        except ArtifactError:  # MLIR of a release that is not known: shown without links
            self.chains[level] = [()] * (text.count("\n") + 1)

    def mark(self, level: str, line: int | None) -> None:
        """A line where it died."""
        if line is not None:
            self.marks.setdefault(level, set()).add(line)

    def panes(self, sass: Pane | None) -> tuple[Pane, ...]:
        """All levels, Python first."""
        found = [self._python(), *(self._pane(level) for level in _LEVELS), sass]
        return tuple(pane for pane in found if pane is not None)

    def _pane(self, level: str) -> Pane | None:
        if level not in self.texts:
            return None
        marks = self.marks.get(level, set())
        rows = tuple(
            Row(str(number), text, _key(chain), marked=number in marks)
            for number, (text, chain) in enumerate(
                zip(self.texts[level].rstrip("\n").split("\n"), self.chains[level], strict=False), 1
            )
        )
        return Pane(level, _TITLES[level], self.files[level], _cut(rows))

    def _python(self) -> Pane | None:
        """The file that the kernel's own lines are in."""
        own = [line for every in self.chains.values() for chain in every if (line := own_line(chain)) is not None]
        for file in dict.fromkeys(line.file for line in own):
            places = [Path(file), *(folder / Path(file).name for folder in self.folders)]
            path = next((place for place in places if place.is_file()), None)
            if path is None:
                continue
            lines = path.read_text("utf-8", "replace").split("\n")
            used = [line.line for line in own if line.name == path.name]
            low, high = 1, len(lines)
            if high > _WHOLE_FILE:
                low, high = max(1, min(used) - _AROUND), min(high, max(used) + _AROUND)
            marks, linked = self.marks.get("python", set()), set(used)
            rows = tuple(
                Row(str(n), lines[n - 1], f"{path.name}:{n}" if n in linked else "", marked=n in marks)
                for n in range(low, high + 1)
            )
            return Pane("python", _TITLES["python"], path.name, rows)
        return None


def _key(chain: Chain) -> str:
    own = own_line(chain)
    return "" if own is None else str(own)


def _cut(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows around the first mark, where there are too many."""
    if len(rows) <= _MOST_ROWS:
        return rows
    at = next((i for i, row in enumerate(rows) if row.marked), 0)
    start = min(max(0, at - _MOST_ROWS // 2), len(rows) - _MOST_ROWS)
    return rows[start : start + _MOST_ROWS]


# --- a core dump -----------------------------------------------------------------------------------------------------


def page_of_dump(dump: CoreDump) -> Page:
    """The page of a core dump alone.

    Raises
    ------
    CoreDumpError
        It is damaged.
    """
    from trlaunch.cuda.kernel_files import KernelFiles

    fault = dump.fault
    levels = _Levels(folders=() if dump.kernel_dir is None else (dump.kernel_dir,))
    if fault is not None:
        for text in KernelFiles(dump.kernel_dir).texts(fault.site).values():
            levels.add(str(text.level), text.text, "in the cubin" if text.path is None else text.path.name)
        for frame in fault.frames:
            levels.mark(frame.level, _own_number(frame))
    title = "GPU core dump" if fault is None else f"{fault.text} at {fault.site}" if fault.function else fault.text
    panes = levels.panes(None if fault is None else _sass(fault))
    summary = [] if fault is None else list(_exception_rows(fault))
    others = len(dump.exceptions) - 1
    if others > 0:
        summary.append(("more", f"{others} more warps or SMs with an exception"))
    site = () if fault is None else (_dump_site(fault, panes),)
    return _with_registers(
        Page(
            title=title,
            status="died" if dump.exceptions else "stopped",
            summary=tuple(summary),
            sites=site,
            panes=panes,
            backtrace=() if fault is None else tuple(str(frame) for frame in fault.backtrace),
            sections=tuple(_dump_sections(dump)),
            made_by=_MADE_BY,
        ),
        fault,
    )


def _own_number(frame: Any) -> int | None:
    """The line of a frame in its pane: of inlined Python the kernel's own line, which the pane shows."""
    if frame.level == "python" and frame.inlined_at:
        number = frame.inlined_at[-1].rpartition(":")[2]
        return int(number) if number.isdigit() else None
    line: int = frame.line
    return line


def _exception_rows(fault: CoreException) -> Iterator[tuple[str, str]]:
    from trlaunch.cuda.coredump_text import hexadecimal, lane_ranges, value_text

    yield "exception", f"{fault.text} ({fault.code})"
    yield "meaning", fault.exception.meaning
    if fault.function is not None:
        yield "at", str(fault.site)
    if fault.block is not None:
        yield "block", _shape(fault.block, ", ")
    if fault.lanes:
        yield "thread", f"{_shape(fault.lanes[0].thread, ', ')}, lanes {lane_ranges(fault.lanes)}"
    place = f"device {fault.device.id} ({fault.device.name}), SM {fault.sm.id}"
    yield "on", place + (f", warp {fault.warp.id}" if fault.warp is not None else "")
    if fault.addresses:
        yield "address", value_text(fault.addresses)
    if fault.pc is not None:
        yield "pc", hexadecimal(fault.pc)


def _dump_site(fault: CoreException, panes: Sequence[Pane]) -> SiteCard:
    from trlaunch.cuda.coredump_text import operand_text

    shown = [operand for operand in fault.operands if operand.registers or operand.constant is not None]
    operands = tuple((o.text, operand_text(o).removeprefix(o.text).strip()) for o in shown)
    lines = []
    if fault.instruction is not None:
        offset = f"{fault.instruction.offset:04x}"
        text = str(fault.instruction).partition(": ")[2]
        lines.append(("sass", str(fault.site), text, _anchor(panes, "sass", offset)))
    for frame in reversed(fault.frames):
        number = _own_number(frame)
        place = f"{Path(frame.file).name or 'in the cubin'}:{frame.line}"
        lines.append((frame.level, place, frame.text, _anchor(panes, frame.level, str(number))))
    return SiteCard("core dump", fault.text, (), operands, tuple(lines), fault.notes)


def _anchor(panes: Sequence[Pane], level: str, number: str) -> str:
    """The id of a row, where there is one."""
    pane = next((pane for pane in panes if pane.level == level), None)
    there = pane is not None and any(row.number == number for row in pane.rows)
    return f"{level}-{number}" if there else ""


def _dump_sections(dump: CoreDump) -> Iterator[Section]:
    fault, info = dump.fault, dump.info
    if fault is not None and fault.grid is not None:
        grid = fault.grid
        rows = [
            ("grid", _shape(grid.grid)),
            ("block", _shape(grid.block)),
            ("cluster", _shape(grid.cluster) if grid.cluster and any(grid.cluster) else "none"),
            ("registers", f"{grid.register_count} a thread"),
        ]
        if fault.warp is not None and fault.warp.shared_bytes is not None:
            rows.append(("shared memory", f"{fault.warp.shared_bytes} bytes a block"))
        if grid.parameters is not None:
            data = grid.parameters.data
            words = [data[i : i + 8][::-1].hex() for i in range(0, len(data), 8)]
            rows.append(("parameters", " ".join(f"0x{word}" for word in words)))
        yield Section("Launch", tuple(rows))
    rows = []
    if info.driver is not None:
        rows.append(("driver", f"{info.driver[0]}.{info.driver[1]}"))
    if info.cuda is not None:
        rows.append(("CUDA", f"{info.cuda[0]}.{info.cuda[1]}"))
    if info.time is not None:
        rows.append(("written", f"{info.time:%Y-%m-%d %H:%M:%S} UTC"))
    rows += [(f"device {d.id}", f"{d.name}, {d.sm_type}, {d.sm_count} SMs") for d in dump.devices]
    yield Section("Core dump", tuple(rows))


def _sass(fault: CoreException) -> Pane | None:
    """The listing of the function that died."""
    site = fault.site
    function = None if site.image is None or site.function is None else site.image.function(site.function)
    if site.image is None or function is None or site.instruction is None:
        return None
    return _listing(site.image, function, lambda offset, _line: offset == site.offset)


def _listing(image: ModuleImage, function: Function, marked: Callable[[int, int | None], bool]) -> Pane:
    """A function's instructions, each with its line of PTX; `marked` is asked with offset and line."""
    rows = []
    start = function.address - function.section_address
    for instruction in image.instructions(function):
        offset = instruction.offset - start
        source, key = image.source(function, offset), ""
        while source is not None:
            key, source = f"{Path(source.file).name}:{source.line}", source.inlined_at
        line = image.ptx_line(function, offset)
        exact = "" if line is None else f"ptx-{line}"
        number, _, text = str(instruction).partition(": ")
        rows.append(Row(number, text, key, exact, marked(offset, line)))
    return Pane("sass", _TITLES["sass"], function.name, _cut(tuple(rows)))


def _loaded(report: Report, lines: set[int]) -> tuple[Pane | None, list[str]]:
    """The listing of the cubin that was launched, where there is no core dump: marked by lines of PTX."""
    from trlaunch.cuda.module_image import ModuleImage

    e = report.evidence
    files: dict[str, bytes] = {} if e.trial is None else dict(e.trial.files)
    for outcome in (e.outcome, e.replay):
        files |= {} if outcome is None else dict(outcome.images)
    for name, data in files.items():
        if not name.endswith(".cubin"):
            continue
        try:
            image = ModuleImage(data)
            function = image.function(report.kernel or "")
            if function is not None:
                return _listing(image, function, lambda _offset, line: line in lines), []
        except (AssemblerError, ImageError) as error:
            return None, [f"SASS is not shown: {str(error).partition(chr(10))[0]}"]
    return None, []


def _with_registers(page: Page, fault: CoreException | None) -> Page:
    """The page with the registers of the warp that died."""
    if fault is None or fault.warp is None or not fault.warp.lanes:
        return page
    from dataclasses import replace

    warp = fault.warp
    count = max((len(lane.registers) for lane in warp.lanes), default=0)
    names = (*(f"R{i}" for i in range(count)), *(f"P{i}" for i in range(7)))
    faulted = {lane.id for lane in fault.lanes}
    lanes = []
    for lane in warp.lanes:
        values = [f"{value:08x}" for value in lane.registers]
        values += [""] * (count - len(values))
        predicates = [str(int(value)) for value in lane.predicates[:7]]
        values += predicates + [""] * (7 - len(predicates))
        lanes.append(Lane(lane.id, _shape(lane.thread, ","), lane.id in faulted, tuple(values)))
    used = frozenset(name for operand in fault.operands for name in operand.registers)
    uniform = [(f"UR{i}", value) for i, value in enumerate(warp.uniform_registers)]
    while uniform and uniform[-1][1] == 0 and uniform[-1][0] not in used:
        uniform.pop()  # of 64 few are in use
    shown = [(name, f"{value:08x}") for name, value in uniform]
    shown += [(f"UP{i}", str(int(value))) for i, value in enumerate(warp.uniform_predicates[:7])]
    where = f"SM {fault.sm.id}, warp {warp.id}" + (f", block {_shape(fault.block, ', ')}" if fault.block else "")
    return replace(
        page, warp=where, register_names=names, used=used & {*names, *(n for n, _ in shown)}, lanes=tuple(lanes),
        uniform=tuple(shown),
    )  # fmt: skip


# --- a report --------------------------------------------------------------------------------------------------------


def page_of_report(report: Report) -> Page:
    """The page of a report: its runs, causes and sites, with the registers and the SASS of its core dump."""
    e = report.evidence
    levels = _Levels()
    for level, text in e.texts.items():
        levels.add(level, text, f"{report.kernel or 'kernel'}.{level}")
    fault, notes = _fault(report)
    if fault is not None and fault.site.image is not None and any(fault.site.image.ptx):
        levels.add("ptx", "\n".join(fault.site.image.ptx), "in the cubin")
    for site in e.sites:
        for line in site.lines:
            levels.mark(line.level, line.line)
    if fault is not None:
        for frame in fault.frames:
            levels.mark(frame.level, _own_number(frame))
    if fault is not None:
        sass = _sass(fault)
    else:
        sass, more = _loaded(report, levels.marks.get("ptx", set()))
        notes += more
    panes = levels.panes(sass)
    return _with_registers(
        Page(
            title=report.title,
            status=report.status,
            good=report.ok,
            summary=tuple(_summary(report)),
            causes=tuple(CauseCard(c.title, c.rule, c.score, tuple(c.facts), c.advice) for c in report.causes),
            sites=tuple(_site(site, panes) for site in e.sites),
            panes=panes,
            backtrace=() if fault is None else tuple(str(frame) for frame in fault.backtrace),
            sections=tuple(_sections(report)),
            notes=tuple(notes),
            made_by=_MADE_BY,
        ),
        fault,
    )


def _fault(report: Report) -> tuple[CoreException | None, list[str]]:
    """What the core dump has, and why it has nothing."""
    if report.core is None:
        return None, []
    from trlaunch.cuda.coredump import CoreDump

    try:
        fault = CoreDump(report.core).fault
        if fault is not None:
            _ = fault.frames, fault.backtrace, fault.operands  # read now, where a damaged dump is expected
        return fault, []
    except (CoreDumpError, ImageError) as error:
        return None, [f"the core dump cannot be read: {error}"]


def _summary(report: Report) -> Iterator[tuple[str, str]]:
    e = report.evidence
    if report.kernel:
        yield "kernel", report.kernel
    if report.command:
        yield "program", " ".join(report.command)
    if e.died is not None:
        name = e.died.name or e.died.kind or e.died.type
        call = f" from {e.died.call}" if e.died.call else ""
        yield "error", f"{name}{call}"
        message = e.died.message.strip().partition("\n")[0]
        if message and message != name:
            yield "message", message
    if e.scene is not None:
        yield "device", e.scene.device_name or e.scene.device
    if e.blamed is not None:
        yield "launch", str(e.blamed)
    if e.blamed_by:
        yield "blamed by", e.blamed_by
    yield "ended", f"{report.status}, after {e.outcome.seconds:.1f} s"


def _site(site: Site, panes: Sequence[Pane]) -> SiteCard:
    rows = []
    if site.cta is not None:
        who = f"block ({_shape(site.cta, ', ')})"
        if site.thread is not None:
            who += f", thread ({_shape(site.thread, ', ')})"
        rows.append(("who", who + (f", {site.lanes} threads there" if site.lanes > 1 else "")))
    if site.launch:
        rows.append(("launched", site.launch))
    if site.address is not None:
        size = f", {site.access} bytes" if site.access else ""
        rows.append(("address", f"{site.address:#x}{size}"))
    lines = []
    sass = next((pane for pane in panes if pane.level == "sass"), None)
    for line in site.lines:
        place = Path(line.file).name if line.line is None else f"{Path(line.file).name}:{line.line}"
        anchor = _anchor(panes, line.level, str(line.line))
        if line.level == "sass" and sass is not None and sass.marked is not None:
            anchor = f"sass-{sass.marked.number}"
        lines.append((line.level, place, line.text.strip(), anchor))
    return SiteCard(site.witness, site.what, tuple(rows), site.operands, tuple(lines), site.notes)


def _sections(report: Report) -> Iterator[Section]:
    from trlaunch.investigate.report import versions

    e = report.evidence
    launch = list(_launch_rows(e))
    if launch:
        yield Section("Launch", tuple(launch))
    parameters = list(_parameter_rows(e))
    if parameters:
        yield Section("Parameters", tuple(parameters))
    site = e.own_site
    spots = site.spots if site is not None and site.spots else e.scene.spots if e.scene is not None else ()
    if spots:
        rows = tuple((s.label, f"{s.address:#014x} to {s.address + s.nbytes:#014x}, {s.nbytes} bytes") for s in spots)
        yield Section("Arguments in memory", rows)
    runs = []
    for name, outcome in (("first", e.outcome), ("replay", e.replay), ("emulator", e.witness)):
        if outcome is not None:
            error = (
                "" if outcome.error is None else f", {outcome.error.name or outcome.error.kind or outcome.error.type}"
            )
            core = "" if outcome.core is None else f", core dump of {len(outcome.core) / 1e6:.1f} MB"
            runs.append((name, f"{outcome.status} after {outcome.seconds:.1f} s{error}{core}"))
    yield Section("Runs", tuple(runs))
    yield Section("Versions", tuple(versions().items()))


def _launch_rows(e: Evidence) -> Iterator[tuple[str, str]]:
    launch, scene = e.blamed, e.scene
    if launch is not None:
        yield "grid", _shape(launch.grid)
        yield "block", _shape(launch.block)
        if any(n != 1 for n in launch.cluster):
            yield "cluster", _shape(launch.cluster)
        yield "dynamic shared", f"{launch.shared} bytes"
        if launch.cooperative:
            yield "cooperative", "yes"
        yield "stream", f"{launch.stream:#x}" if launch.stream else "default"
        yield "number", f"{launch.index + 1} of the process, {launch.state}"
    if scene is not None:
        yield "level", scene.level
        yield "compiled for", scene.target
        if scene.device_target:
            yield "device is", scene.device_target
        for name in ("required_block", "max_threads", "registers", "static_shared", "local_bytes"):
            value = scene.image.get(name)
            if value is not None:
                yield (
                    f"image: {name.replace('_', ' ')}",
                    _shape(value) if isinstance(value, (list, tuple)) else str(value),
                )


def _parameter_rows(e: Evidence) -> Iterator[tuple[str, str]]:
    """Name and type of each parameter with the value that the launch had."""
    if e.scene is None:
        return
    data = bytes.fromhex(e.blamed.parameters) if e.blamed is not None and _is_hex(e.blamed.parameters) else b""
    for number, parameter in enumerate(e.scene.parameters):
        label = str(parameter.get("label") or parameter.get("name") or number)
        yield label, f"{parameter.get('type')} {_parameter_value(parameter, data)}".rstrip()


def _parameter_value(parameter: Mapping[str, Any], data: bytes) -> str:
    offset, size = parameter.get("offset"), parameter.get("size")
    if (
        not isinstance(offset, int)
        or not isinstance(size, int)
        or offset + size > len(data)
        or size not in (1, 2, 4, 8)
    ):
        return ""
    value = int.from_bytes(data[offset : offset + size], "little")
    pointer = str(parameter.get("type", "")).startswith("*")
    return f"{value:#x}" if pointer else f"{value} ({value:#x})"


def _is_hex(text: str) -> bool:
    return len(text) % 2 == 0 and all(c in "0123456789abcdefABCDEF" for c in text)


def _shape(values: Sequence[int], between: str = " × ") -> str:
    return between.join(map(str, values))
