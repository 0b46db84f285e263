"""From an exception of a core dump to the code that raised it: function, instruction, operands, lines of each level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trlaunch.cuda.coredump_model import Cta, Device, Grid, Lane, Module, Sm, Warp
from trlaunch.cuda.disassembler import Instruction, SourceLine
from trlaunch.cuda.exceptions import EXCEPTIONS, GpuException
from trlaunch.cuda.kernel_files import KernelFiles, LevelLine
from trlaunch.cuda.module_image import Function, ModuleImage
from trlaunch.cuda.sass_operands import Access, Constant, Operand, access_of, destinations, operands
from trlaunch.errors import AssemblerError, ImageError

if TYPE_CHECKING:
    from trlaunch.cuda.coredump import CoreDump

__all__ = ["BacktraceFrame", "CoreException", "Locator", "OperandValue", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the code of a module.

    Attributes
    ----------
    image : ModuleImage or None
    function : str or None
        ``None`` where no module of the dump has the address.
    offset : int or None
        Bytes from the function's start.
    instruction : Instruction or None
        What is there; ``None`` without a disassembler.
    source : SourceLine or None
        The line table's word on it, with the calls that it was inlined at.
    ptx_line : int or None
        Line of the PTX that ptxas was given, from 1.
    ptx : str or None
        That line.
    notes : tuple of str
        Why something above is missing.
    """

    image: ModuleImage | None = field(default=None, repr=False, compare=False)
    function: str | None = None
    offset: int | None = None
    instruction: Instruction | None = None
    source: SourceLine | None = None
    ptx_line: int | None = None
    ptx: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "?" if self.function is None else f"{self.function}+{self.offset:#x}"


@dataclass(frozen=True, slots=True)
class OperandValue:
    """An operand with what it was in each faulting lane.

    Attributes
    ----------
    text : str
        As nvdisasm prints it.
    registers : dict
        For each register that it names its values, one a lane; ``None`` where the dump has none.
    addresses : tuple of int or None
        The address that it makes in each lane, of an access to memory.
    constant : int or None
        The word of a constant bank.
    overwritten : tuple of str
        Registers that the lanes have written since, for they stop some instructions behind the one that faulted.
    roles : dict
        What a register is to the instruction, for those that take theirs in a row: ``"coordinate 0"``.
    """

    text: str
    registers: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    addresses: tuple[int | None, ...] | None = None
    constant: int | None = None
    overwritten: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BacktraceFrame:
    """A caller on the stack of a lane."""

    level: int
    site: Site
    address: int

    def __str__(self) -> str:
        return f"#{self.level} {self.site}" + (f" at {self.site.source}" if self.site.source else "")


@dataclass(frozen=True, slots=True)
class CoreException:
    """What happened to a warp; or to an SM, where the warps that it happened to have exited.

    Attributes
    ----------
    exception : GpuException
    device : Device
    sm : Sm
    cta : Cta or None
    warp : Warp or None
    lanes : tuple of Lane
        The threads it happened to.
    grid : Grid or None
        Of an SM alone: the device's only launch, if it has one.
    module : Module or None
    pc : int or None
        GPU address of the instruction.
    exact : bool
        The hardware kept the address; otherwise it is where the threads stopped, at or behind it.
    """

    exception: GpuException
    device: Device
    sm: Sm
    cta: Cta | None
    warp: Warp | None
    lanes: tuple[Lane, ...]
    grid: Grid | None
    module: Module | None
    pc: int | None
    exact: bool
    _locator: Locator = field(repr=False, compare=False)

    @property
    def code(self) -> int:
        """``CUDBGException_t``."""
        return self.exception.code

    @property
    def kind(self) -> str:
        """A short name of the code: ``"misaligned-address"``."""
        return self.exception.kind

    @property
    def text(self) -> str:
        """The name of the code as debuggers print it."""
        return self.exception.text

    @property
    def block(self) -> tuple[int, int, int] | None:
        """Block index."""
        return None if self.cta is None else self.cta.block

    @property
    def thread(self) -> tuple[int, int, int] | None:
        """Thread index of the first lane."""
        return self.lanes[0].thread if self.lanes else None

    @property
    def threads(self) -> tuple[tuple[int, int, int], ...]:
        """Thread index of every lane."""
        return tuple(lane.thread for lane in self.lanes)

    @property
    def site(self) -> Site:
        """Where it happened in the code."""
        return self._locator.site(self)

    @property
    def function(self) -> str | None:
        """Name of the function."""
        return self.site.function

    @property
    def offset(self) -> int | None:
        """Bytes from the function's start."""
        return self.site.offset

    @property
    def instruction(self) -> Instruction | None:
        """The SASS instruction."""
        return self.site.instruction

    @property
    def context(self) -> tuple[Instruction, ...]:
        """The instructions around it, three before and three behind."""
        return self._locator.around(self, 3)

    @property
    def operands(self) -> tuple[OperandValue, ...]:
        """The instruction's operands with the values that the lanes had."""
        return tuple(self._locator.operand(self, operand) for operand in self._operands())

    @property
    def access(self) -> Access | None:
        """The memory access that the instruction makes."""
        return access_of(self._operands())

    @property
    def address(self) -> int | None:
        """The address that the first lane accessed, computed from the operands."""
        return next((address for address in self.addresses if address is not None), None)

    @property
    def addresses(self) -> tuple[int | None, ...]:
        """The address that each lane accessed."""
        access = self.access
        if access is None:
            return ()
        return tuple(access.address(self._locator.state(self, lane)) for lane in self.lanes)

    @property
    def frames(self) -> tuple[LevelLine, ...]:
        """The line of each level that the instruction came from, Python first, as far as they are known."""
        return self._locator.frames(self)

    @property
    def backtrace(self) -> tuple[BacktraceFrame, ...]:
        """The callers of the first lane, innermost first."""
        return self._locator.backtrace(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the above: what is missing and why, what is not exact."""
        return self._locator.notes(self)

    def _operands(self) -> tuple[Operand, ...]:
        return operands(self.instruction) if self.instruction is not None else ()

    def as_dict(self, registers: bool = False) -> dict[str, Any]:
        """For JSON; `registers` adds those of every lane."""
        from trlaunch.cuda.coredump_text import exception_as_dict

        return exception_as_dict(self, registers)

    def __str__(self) -> str:
        from trlaunch.cuda.coredump_text import exception_as_text

        return exception_as_text(self)


class Locator:
    """Finds the code of one dump's exceptions, each place once."""

    def __init__(self, dump: CoreDump) -> None:
        self._dump = dump
        self._files = KernelFiles(dump.kernel_dir)
        self._sites: dict[tuple[object, int | None], Site] = {}

    # What happened

    def exceptions(self) -> Iterator[CoreException]:
        """The exceptions by device and SM; those of SMs without a warp behind all others."""
        of_sms = []
        for device in self._dump.devices:
            for sm in device.sms:
                found = [
                    entry for cta in sm.ctas for warp in cta.warps for entry in self._of_warp(device, sm, cta, warp)
                ]
                yield from found
                if not found and sm.exception is not None:
                    of_sms.append(self._of_sm(device, sm))
        yield from of_sms

    def _of_warp(self, device: Device, sm: Sm, cta: Cta, warp: Warp) -> Iterator[CoreException]:
        by_code: dict[int, list[Lane]] = {}
        for lane in warp.lanes:
            if lane.exception.code:
                by_code.setdefault(lane.exception.code, []).append(lane)
        if not by_code and warp.error_pc is not None:
            # The lanes do not say what it was: it is the SM's, and every active lane's.
            lanes = [lane for lane in warp.lanes if warp.active_mask >> lane.id & 1]
            kind = sm.exception or GpuException(
                0, "unknown", "Unknown exception", "warp", "The dump does not say what."
            )
            yield self._at_warp(kind, device, sm, cta, warp, lanes)
        for lanes in by_code.values():
            yield self._at_warp(lanes[0].exception, device, sm, cta, warp, lanes)

    def _at_warp(
        self, kind: GpuException, device: Device, sm: Sm, cta: Cta, warp: Warp, lanes: list[Lane]
    ) -> CoreException:
        grid = device.grid(cta.grid)
        module = self._module(device, None if grid is None else grid.module)
        pc = warp.error_pc if warp.error_pc is not None else self._pc_of(lanes[0], grid, module) if lanes else None
        exact = warp.error_pc is not None
        return CoreException(kind, device, sm, cta, warp, tuple(lanes), grid, module, pc, exact, self)

    def _of_sm(self, device: Device, sm: Sm) -> CoreException:
        assert sm.exception is not None
        grid = device.grids[0] if len(device.grids) == 1 else None
        module = self._module_at(device, sm.error_pc)
        exact = sm.error_pc is not None
        return CoreException(sm.exception, device, sm, None, None, (), grid, module, sm.error_pc, exact, self)

    def stopped(self) -> tuple[CoreException, ...]:
        """Places where warps without an exception stopped, one entry a place: breakpoints first, then traps."""
        found: dict[tuple[int, int | None], CoreException] = {}
        for device in self._dump.devices:
            for sm in device.sms:
                for cta in sm.ctas:
                    for warp in cta.warps:
                        if warp.error_pc is not None or not warp.lanes or any(x.exception.code for x in warp.lanes):
                            continue
                        pcs = {lane.pc for lane in warp.lanes if warp.active_mask >> lane.id & 1}
                        for pc in sorted(pcs):
                            lanes = [lane for lane in warp.lanes if lane.pc == pc]
                            entry = self._at_warp(EXCEPTIONS[0], device, sm, cta, warp, lanes)
                            found.setdefault((device.id, entry.pc), entry)

        def order(entry: CoreException) -> tuple[bool, bool]:
            return not (entry.warp is not None and entry.warp.broken), self._trap_before(entry) is None

        return tuple(sorted(found.values(), key=order))

    # Where

    @staticmethod
    def _module(device: Device, handle: int | None) -> Module | None:
        modules = (module for context in device.contexts for module in context.modules)
        return next((module for module in modules if module.handle == handle), None)

    @staticmethod
    def _image(module: Module) -> ModuleImage | None:
        try:
            return module.image
        except ImageError:
            return None

    def _module_at(self, device: Device, pc: int | None) -> Module | None:
        if pc is None:
            return None
        for context in device.contexts:
            for module in context.modules:
                image = self._image(module)
                if image is not None and image.at(pc) is not None:
                    return module
        return None

    def _pc_of(self, lane: Lane, grid: Grid | None, module: Module | None) -> int:
        """The GPU address of a lane; the classic debugger backend has host addresses, and offsets in the function."""
        image = self._image(module) if module is not None else None
        if grid is None or lane.call_depth or image is None or image.at(lane.pc) is not None:
            return lane.pc
        return grid.entry + lane.offset

    def site(self, entry: CoreException) -> Site:
        """The code at an exception's address."""
        return self.site_at(entry.device, entry.module, entry.grid, entry.pc)

    def site_at(self, device: Device, module: Module | None, grid: Grid | None, pc: int | None) -> Site:
        """The code at an address: in the module, else in any other of the device."""
        key = (None if module is None else module._at, pc)
        if key not in self._sites:
            self._sites[key] = self._locate(device, module, grid, pc)
        return self._sites[key]

    def _locate(self, device: Device, module: Module | None, grid: Grid | None, pc: int | None) -> Site:
        if pc is None:
            return Site(notes=("the dump has no program counter for it",))
        image = None
        if module is not None:
            try:
                image = module.image
            except ImageError as error:
                return Site(notes=(f"the module's image cannot be read: {error}",))
        function = None if image is None else image.at(pc)
        if function is None:
            other = self._module_at(device, pc)
            if other is not None and other is not module:
                image = other.image
                function = None if image is None else image.at(pc)
        offset = None if function is None else pc - function.address
        if function is None and image is not None and grid is not None:
            function, offset = _by_entry(image, grid, pc)
        if image is None or function is None or offset is None:
            where = (
                "the dump has no module image" if image is None else "no module in the dump has code at this address"
            )
            return Site(notes=(f"{where}: the function is not known",))
        return self._inside(image, function, offset)

    @staticmethod
    def _inside(image: ModuleImage, function: Function, offset: int) -> Site:
        notes: list[str] = []
        instruction, source, ptx_line, ptx = None, None, None, None
        try:
            listed = image.instructions(function)
            start = function.address - function.section_address
            instruction = next((entry for entry in listed if entry.offset - start == offset), None)
            if instruction is None:
                notes.append(f"there is no instruction at offset {offset:#x}")
        except AssemblerError as error:
            notes.append(f"the instruction is not known: {str(error).partition(chr(10))[0]}")
        try:
            source = image.source(function, offset)
            ptx_line = image.ptx_line(function, offset)
            ptx = image.ptx[ptx_line - 1] if ptx_line is not None and ptx_line <= len(image.ptx) else None
        except ImageError as error:
            notes.append(f"lines are not known: {error}")
        if source is None and not notes:
            notes.append("the module has no line table")
        return Site(image, function.name, offset, instruction, source, ptx_line, ptx, tuple(notes))

    def around(self, entry: CoreException, count: int) -> tuple[Instruction, ...]:
        """The instructions around an exception's."""
        site = entry.site
        if site.image is None or site.instruction is None or site.function is None:
            return ()
        function = site.image.function(site.function)
        listed = site.image.instructions(function) if function is not None else []
        at = listed.index(site.instruction)
        return tuple(listed[max(0, at - count) : at + count + 1])

    def frames(self, entry: CoreException) -> tuple[LevelLine, ...]:
        """The lines of each level."""
        return self._files.lines(entry.site)

    def backtrace(self, entry: CoreException) -> tuple[BacktraceFrame, ...]:
        """The callers of the first lane."""
        if not entry.lanes:
            return ()
        found = []
        for frame in entry.lanes[0].backtrace:
            # A return address is behind the call: one byte before it is still inside.
            site = self.site_at(entry.device, entry.module, None, frame.return_address)
            found.append(BacktraceFrame(frame.level, site, frame.return_address))
        return tuple(found)

    # With what

    def state(self, entry: CoreException, lane: Lane) -> Any:
        """The registers of a lane by name."""
        registers, predicates = lane.registers, lane.predicates
        uniform = entry.warp.uniform_registers if entry.warp is not None else ()
        uniform_predicates = entry.warp.uniform_predicates if entry.warp is not None else ()
        files = {"R": registers, "UR": uniform, "P": predicates, "UP": uniform_predicates}

        def value(name: str) -> int | None:
            letters = name.rstrip("0123456789")
            if letters == name:  # RZ, URZ, PT, UPT
                return 0 if name.endswith("Z") else 1
            found, number = files[letters], int(name[len(letters) :])
            return int(found[number]) if number < len(found) else None

        return value

    def operand(self, entry: CoreException, operand: Operand) -> OperandValue:
        """An operand's values in the lanes of an exception."""
        states = [self.state(entry, lane) for lane in entry.lanes]
        access, since = operand.access, self._written_since(entry)
        return OperandValue(
            operand.text,
            {name: tuple(state(name) for state in states) for name in operand.registers},
            None if access is None or not access.space else tuple(access.address(state) for state in states),
            self._constant(entry, operand.constant, states) if operand.constant is not None else None,
            tuple(name for name in operand.registers if name in since),
            dict(zip(operand.registers, operand.roles, strict=False)),
        )

    def _constant(self, entry: CoreException, constant: Constant, states: list[Any]) -> int | None:
        grid = entry.grid
        if grid is None:
            return None
        offset = constant.offset
        if constant.register is not None:
            indexes = {state(constant.register) for state in states}
            index = indexes.pop() if len(indexes) == 1 else None
            if index is None:
                return None
            offset += index
        data = None
        if constant.bank == 0 and grid.parameters is not None and offset >= grid.params_offset:
            data = grid.parameters.read(grid.parameters.address + offset - grid.params_offset, 4)
        if data is None and constant.bank in grid.constant_banks:
            data = self._dump.read(grid.constant_banks[constant.bank][0] + offset, 4)
        return None if data is None else int.from_bytes(data, "little")

    @staticmethod
    def _written_since(entry: CoreException) -> frozenset[str]:
        """Registers that the lanes have written between the instruction that faulted and where they stopped."""
        site = entry.site
        if not entry.lanes or site.image is None or site.function is None or site.offset is None or entry.pc is None:
            return frozenset()
        function = site.image.function(site.function)
        stop = entry.lanes[0].offset
        if function is None or site.instruction is None or not site.offset < stop <= function.size:
            return frozenset()
        start = function.address - function.section_address
        passed = (
            destinations(other)
            for other in site.image.instructions(function)
            if site.offset <= other.offset - start < stop
        )
        return frozenset().union(*passed)

    def _trap_before(self, entry: CoreException) -> Instruction | None:
        """The trap that a warp stopped behind, at most a branch later."""
        here = entry.instruction
        before = [] if here is None else [other for other in self.around(entry, 2) if other.offset <= here.offset]
        return next((other for other in reversed(before) if other.opcode.startswith("BPT.TRAP")), None)

    def notes(self, entry: CoreException) -> tuple[str, ...]:
        """What is missing or not exact."""
        notes = list(entry.site.notes)
        if entry.warp is None:
            notes.append(
                "the warps that this happened to have exited: block, threads and registers are lost, only the SM kept "
                "the exception"
            )
        elif not entry.exact and (trap := self._trap_before(entry)) is not None:
            notes.append(f"the threads executed a trap: {trap}")
        elif not entry.exact:
            notes.append(
                "the hardware kept no address: this is where the threads stopped, at or behind the instruction"
            )
        elif entry.lanes and entry.site.offset is not None and entry.lanes[0].offset != entry.site.offset:
            notes.append(
                f"the threads went on to +{entry.lanes[0].offset:#x} before they stopped: registers are those of there"
            )
        if entry.sm.exception_text:
            notes.append(f"the driver says: {entry.sm.exception_text}")
        return (*notes, *self._files.notes(entry.site))


def _by_entry(image: ModuleImage, grid: Grid, pc: int) -> tuple[Function | None, int | None]:
    """The function of an image without addresses: the only one, counted from the launch's entry."""
    offset = pc - grid.entry
    fitting = [function for function in image.functions if not function.address and 0 <= offset < function.size]
    return (fitting[0], offset) if len(fitting) == 1 else (None, None)


def source_chain(source: SourceLine | None) -> Iterable[SourceLine]:
    """A line and the calls that it was inlined at, innermost first."""
    while source is not None:
        yield source
        source = source.inlined_at
