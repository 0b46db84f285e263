"""Reading the statements of one function body, with those of the device functions it calls in their places.

A call becomes the callee's statements: its parameters are the caller's ``.param`` variables by another name, its
``ret`` a jump behind the call. ``.param`` variables of a body and ``.local`` variables lie in one frame per thread, and
a scope's part of the frame is free again behind the scope.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trlaunch.emulator.declarations import SPACES, number, param, type_name, variables
from trlaunch.emulator.syntax import (
    Address,
    Body,
    CallSite,
    Function,
    Group,
    Immediate,
    Instruction,
    LabelMark,
    Module,
    Negated,
    Operand,
    Pair,
    Position,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)
from trlaunch.emulator.tokens import Token
from trlaunch.errors import EmulatorError, UnsupportedInstruction

__all__ = ["BodyParser"]

#: Special registers by name without a component (PTX ISA, chapter "Special Registers").
_SPECIAL = frozenset(
    (
        "%tid",
        "%ntid",
        "%laneid",
        "%warpid",
        "%nwarpid",
        "%ctaid",
        "%nctaid",
        "%smid",
        "%nsmid",
        "%gridid",
        "%is_explicit_cluster",
        "%clusterid",
        "%nclusterid",
        "%cluster_ctaid",
        "%cluster_nctaid",
        "%cluster_ctarank",
        "%cluster_nctarank",
        "%lanemask_eq",
        "%lanemask_le",
        "%lanemask_lt",
        "%lanemask_ge",
        "%lanemask_gt",
        "%clock",
        "%clock_hi",
        "%clock64",
        "%globaltimer",
        "%globaltimer_lo",
        "%globaltimer_hi",
        "%total_smem_size",
        "%aggr_smem_size",
        "%dynamic_smem_size",
        "%current_graph_exec",
    )
)
_MAX_DEPTH = 4
_MAX_CALLS = 64
#: Local memory of a thread in bytes (CUDA C++ Programming Guide, "Compute Capabilities").
_MAX_LOCAL = 512 << 10
#: Most statements of a body with everything it calls.
_MAX_STATEMENTS = 200_000


@dataclass(slots=True)
class _Scope:
    registers: dict[str, Register] = field(default_factory=dict)
    ranges: dict[str, tuple[int, str]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[Instruction, str]] = field(default_factory=list)
    symbols: dict[str, str] = field(default_factory=dict)
    frame: int = 0


class BodyParser:
    """Statements of one body; scopes are a stack, so nesting costs no recursion."""

    def __init__(self, module: Module, function: Function) -> None:
        self.s = module.stream
        self.module = module
        self.function = function
        self.calls: list[tuple[Function, int]] = []
        self.callers: tuple[CallSite, ...] = ()
        self.frame = 0
        self.out = Body([], [], [])
        self.scopes = [_Scope()]
        self.position: Position | None = None
        self.label_count = 0

    def parse(self) -> Body:
        """Read the body that the function's token range bounds."""
        self._statements()
        return self.out

    def _statements(self) -> None:
        s = self.s
        s.at = self.function.start
        while s.at < self.function.stop:
            token = s.here
            if token.kind == "directive":
                self._directive(token)
            elif s.accept("{"):
                self.scopes.append(_Scope(frame=self.frame))
            elif s.accept("}"):
                self._close()
            elif token.kind == "name" and s.tokens[s.at + 1].text == ":":
                s.at += 2
                if token.text in self.scopes[-1].labels:
                    raise s.error(f"label {token.text!r} is defined twice", back=1)
                self.scopes[-1].labels[token.text] = self.label_count
                self.out.statements.append(LabelMark(token.text, self.label_count))
                self.label_count += 1
            elif not s.accept(";"):
                self._instruction()
        self._close()

    def _close(self) -> None:
        scope = self.scopes.pop()
        self.frame = scope.frame
        for instruction, name in scope.pending:
            if name in scope.labels:
                instruction.target = scope.labels[name]
            elif self.scopes:
                self.scopes[-1].pending.append((instruction, name))
            else:
                raise EmulatorError(f"PTX line {instruction.line}: label {name!r} is not defined in its scope")

    def _directive(self, token: Token) -> None:
        s = self.s
        word = token.text
        if word == ".loc":
            s.next()
            self._loc()
        elif word == ".reg":
            s.next()
            self._registers()
        elif word == ".param":
            declared = param(s)
            s.expect(";")
            self._place(declared.name, declared.size, declared.align)
        elif word[1:] in SPACES:
            for variable in variables(s, False):
                self.out.variables.append(variable)
                if variable.space == "local":
                    if variable.size is None or variable.size > _MAX_LOCAL:
                        raise s.error(f"expected at most {_MAX_LOCAL} bytes of local memory", back=1)
                    self._place(variable.name, variable.size, variable.align)
        elif word in (".pragma", ".branchtargets", ".callprototype", ".calltargets"):
            while not s.accept(";"):
                if s.next().kind == "end":
                    raise s.error("expected ';'")
        else:
            raise s.error("expected a statement")

    def _place(self, name: str, size: int, align: int) -> None:
        """Give a ``.local`` or ``.param`` variable of this scope its place in the frame."""
        at = -(-self.frame // align) * align
        self.frame = at + size
        self.out.frame = max(self.out.frame, self.frame)
        unique = f"{name}@{len(self.out.locals)}"
        self.out.locals[unique] = at
        self.scopes[-1].symbols[name] = unique

    def _symbol(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope.symbols:
                return scope.symbols[name]
        return name

    def _call(self, made: Instruction) -> bool:
        """Put the callee's statements in the place of a call; false if it has none in this module."""
        groups = [o.items for o in made.operands if isinstance(o, Group)]
        names = [o.name for o in made.operands if isinstance(o, Symbol)]
        callee = self.module.functions.get(names[0]) if names else None
        if callee is None or not callee.stop:
            return False
        results = groups.pop(0) if callee.results and groups else ()
        arguments = groups.pop(0) if groups else ()
        if (len(results), len(arguments)) != (len(callee.results), len(callee.params)) or made.guard is not None:
            raise self._error(made, f"expected an unguarded call with {len(callee.params)} arguments")
        if any(f is callee for f, _ in self.calls) or callee is self.function or len(self.calls) >= _MAX_CALLS:
            raise UnsupportedInstruction(
                f"PTX line {made.line}: {callee.name!r} calls itself: recursion is not executed"
            )
        scope = _Scope(frame=self.frame)
        for formal, actual in zip((*callee.results, *callee.params), (*results, *arguments), strict=True):
            if not isinstance(actual, Symbol) or actual.name not in self.out.locals:
                raise self._error(made, "expected variables of the .param space as arguments")
            scope.symbols[formal.name] = actual.name
        s = self.s
        kept = s.at, self.scopes, self.function, self.position, self.callers
        self.calls.append((callee, self.label_count))
        self.callers = (*self.callers, CallSite(callee.name, made.line, self.label_count))
        self.label_count += 1
        self.scopes, self.function = [scope], callee
        self._statements()
        _, back = self.calls.pop()
        s.at, self.scopes, self.function, self.position, self.callers = kept
        self.out.statements.append(LabelMark(f"behind {callee.name}", back))
        return True

    def _error(self, made: Instruction, what: str) -> EmulatorError:
        return EmulatorError(f"PTX line {made.line}: {what}: `{self.s.line_text(made.line)[:120]}`")

    def _loc(self) -> None:
        s = self.s
        file, line = s.integer(), s.integer()
        column = s.integer() if s.here.kind == "number" else 0
        inlined: tuple[int, int, int] | None = None
        while s.accept(","):
            word = s.expect_kind("name", "function_name or inlined_at")
            if word == "inlined_at":
                inlined = (s.integer(), s.integer(), s.integer())
            else:
                s.next()
                if s.accept("+"):
                    s.integer()
        self.position = Position(file, line, column, inlined) if line else None

    def _registers(self) -> None:
        s = self.s
        if s.here.text in (".v2", ".v4"):
            raise s.error("vector registers are not read: expected .reg of a scalar type")
        kind, scope = type_name(s), self.scopes[-1]
        while True:
            name = s.expect_kind("name", "a register name")
            if s.accept("<"):
                scope.ranges[name] = (s.integer(), kind)
                s.expect(">")
            else:
                scope.registers[name] = self._new(name, kind)
            if s.accept(";"):
                return
            s.expect(",")

    def _new(self, name: str, kind: str) -> Register:
        register = Register(name, kind, len(self.out.registers))
        self.out.registers.append(register)
        return register

    def _lookup(self, name: str) -> Register | None:
        for scope in reversed(self.scopes):
            if (found := scope.registers.get(name)) is not None:
                return found
            if scope.ranges and name[-1].isdigit():
                prefix = name.rstrip("0123456789")
                count, kind = scope.ranges.get(prefix, (0, ""))
                digits = name[len(prefix) :]
                if len(digits) < 10 and str(int(digits)) == digits and int(digits) < count:
                    scope.registers[name] = self._new(name, kind)
                    return scope.registers[name]
        return None

    def _instruction(self) -> None:
        s = self.s
        line = s.line_of(s.here)
        guard, negated = None, False
        if s.accept("@"):
            negated = s.accept("!")
            name = s.expect_kind("name", "a predicate register")
            guard = self._lookup(name)
            if guard is None or guard.type != "pred":
                raise s.error(f"{name!r} is not a declared predicate register", back=1)
        opcode = s.expect_kind("name", "an instruction")
        operands: list[Operand] = []
        if not s.accept(";"):
            operands.append(self._operand(0))
            while not s.accept(";"):
                s.expect(",")
                operands.append(self._operand(0))
        if s.at > self.function.stop:
            raise s.error("expected ';' before the end of the function", back=1)
        made = Instruction(opcode, tuple(operands), guard, negated, line, self.position, callers=self.callers)
        if opcode.split(".")[0] == "bra":
            if len(operands) != 1 or not isinstance(operands[0], Symbol):
                raise s.error("expected one label after bra", back=1)
            self.scopes[-1].pending.append((made, operands[0].name))
        root = opcode.split(".")[0]
        if root == "call" and self._call(made):
            return
        if root == "ret" and self.calls:
            back = self.calls[-1][1]
            behind = (Symbol("behind the call"),)
            made = Instruction("bra", behind, guard, negated, line, self.position, back, self.callers)
        self.out.statements.append(made)
        if len(self.out.statements) > _MAX_STATEMENTS:
            raise UnsupportedInstruction(
                f"PTX line {line}: {self.function.name!r} with all it calls has more than {_MAX_STATEMENTS} statements"
            )

    def _operand(self, depth: int) -> Operand:
        s = self.s
        if depth > _MAX_DEPTH:
            raise s.error("operands are nested too deeply")
        token = s.here
        if token.kind == "name":
            first = self._name(s.next().text)
            if s.accept("|"):
                return Pair(first, self._operand(depth + 1))
            if isinstance(first, Symbol) and (s.here.text in ("+", "-")):
                return Symbol(first.name, self._offset())
            return first
        if token.kind == "number":
            return number(s)
        if s.accept("-"):
            value = number(s)
            if value.kind == "int":
                return Immediate(-value.value)
            return Immediate(value.value ^ (1 << (31 if value.kind == "f32" else 63)), value.kind)
        if s.accept("!"):
            return Negated(self._operand(depth + 1))
        if s.accept("{"):
            return Vector(self._list("}", depth))
        if s.accept("("):
            return Group(self._list(")", depth))
        if s.accept("["):
            base = self._operand(depth + 1)
            if isinstance(base, Symbol):
                offset, base = base.offset, Symbol(base.name)
            else:
                offset = self._offset() if s.here.text in ("+", "-") else 0
            if not isinstance(base, (Register, Symbol, Immediate, Special)):
                raise s.error("expected a register, variable or number as an address", back=1)
            return Address(base, offset, self._list("]", depth) if s.accept(",") else self._end_bracket())
        raise s.error("expected an operand")

    def _end_bracket(self) -> tuple[Operand, ...]:
        self.s.expect("]")
        return ()

    def _offset(self) -> int:
        sign = -1 if self.s.next().text == "-" else 1
        return sign * self.s.integer()

    def _list(self, closing: str, depth: int) -> tuple[Operand, ...]:
        s = self.s
        if s.accept(closing):
            return ()
        items = [self._operand(depth + 1)]
        while not s.accept(closing):
            s.expect(",")
            items.append(self._operand(depth + 1))
        return tuple(items)

    def _name(self, name: str) -> Operand:
        if name == "_":
            return Sink()
        if (register := self._lookup(name)) is not None:
            return register
        if name.partition(".")[0] in _SPECIAL or name.startswith(("%envreg", "%reserved_smem_", "%pm")):
            return Special(name)
        if name.startswith("%"):
            raise self.s.error(f"register {name!r} is not declared", back=1)
        if name == "WARP_SZ":
            return Immediate(32)
        return Symbol(self._symbol(name))
