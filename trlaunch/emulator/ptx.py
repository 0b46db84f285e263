"""PTX text as a module: version, target, variables, functions with parameters, and their statements.

The grammar is that of the PTX ISA (chapters "Syntax" and "Directives") as far as it does not depend on the
instruction: every opcode is read, whether or not the emulator executes it. Bodies are read on demand, so that the
header of a module with instructions nobody knows yet can still be read.
"""

from __future__ import annotations

from trlaunch.emulator.declarations import SPACES, param, variables
from trlaunch.emulator.statements import BodyParser
from trlaunch.emulator.syntax import Body, Function, Module, Param, Variable
from trlaunch.emulator.tokens import TokenStream, decode
from trlaunch.errors import EmulatorError

__all__ = ["parse", "parse_body"]

_LINKAGE = frozenset((".visible", ".extern", ".weak", ".common"))
#: Directives between a function's parameters and its body, and how many integers follow.
_PERFORMANCE = {
    ".maxntid": 3, ".reqntid": 3, ".minnctapersm": 1, ".maxnctapersm": 1, ".maxnreg": 1, ".explicitcluster": 0,
    ".reqnctapercluster": 3, ".maxclusterrank": 1, ".noreturn": 0, ".blocksareclusters": 0, ".abi_preserve": 1,
    ".abi_preserve_control": 1,
}  # fmt: skip


def parse(text: bytes | str) -> Module:
    """Read a module: everything but the statements of its functions.

    Raises
    ------
    EmulatorError
        The text is not PTX; the message names the line.
    """
    return _ModuleParser(TokenStream(decode(text))).parse()


def parse_body(module: Module, function: Function) -> Body:
    """Read the statements of a function.

    Raises
    ------
    EmulatorError
        The body is malformed, or the function has none.
    """
    if not function.stop:
        raise EmulatorError(f"function {function.name!r} has no body in this PTX")
    return BodyParser(module, function).parse()


class _ModuleParser:
    def __init__(self, stream: TokenStream) -> None:
        self.s = stream
        self.module = Module(stream, (0, 0), "")

    def parse(self) -> Module:
        s, module = self.s, self.module
        while s.here.kind != "end":
            token = s.here
            if s.accept(".version"):
                module.version = self._version()
            elif s.accept(".target"):
                names = [s.expect_kind("name", "a target such as sm_80")]
                while s.accept(","):
                    names.append(s.expect_kind("name", "a target option"))
                module.target, module.options = names[0], tuple(names[1:])
            elif s.accept(".address_size"):
                if s.integer() != 64:
                    raise s.error("expected .address_size 64", back=1)
            elif s.accept(".file"):
                number = s.integer()
                module.files[number] = s.expect_kind("string", "a file name")[1:-1]
                while s.accept(","):
                    s.integer()
            elif s.accept(".section"):
                s.next()
                self._skip_braces()
            elif s.accept(".pragma") or s.accept(".alias"):
                self._skip_to_semicolon()
            elif token.kind == "directive" and (
                token.text in _LINKAGE or token.text in (".entry", ".func") or token.text[1:] in SPACES
            ):
                self._declaration()
            elif not s.accept(";"):
                raise s.error("expected a module directive such as .version, .global or .entry")
            if not module.version[0]:
                raise EmulatorError("PTX must begin with .version: this text does not" + self._first())
        if not module.version[0] or not module.target:
            missing = ".target" if module.version[0] else ".version"
            raise EmulatorError(f"this text is not PTX: it has no {missing} directive" + self._first())
        return module

    def _first(self) -> str:
        line = self.s.line_text(1)[:60]
        return f" (line 1: `{line}`)" if line else ""

    def _version(self) -> tuple[int, int]:
        text = self.s.expect_kind("number", "a version such as 8.7")
        major, dot, minor = text.partition(".")
        if not (dot and major.isdigit() and minor.isdigit() and len(text) < 8 and int(major) > 0):
            raise self.s.error("expected a version such as 8.7", back=1)
        return int(major), int(minor)

    def _skip_braces(self) -> None:
        s = self.s
        s.expect("{")
        depth = 1
        while depth:
            token = s.next()
            if token.kind == "end":
                raise s.error("expected '}'")
            if token.kind == "mark":
                depth += (token.text == "{") - (token.text == "}")

    def _skip_to_semicolon(self) -> None:
        while not self.s.accept(";"):
            if self.s.next().kind == "end":
                raise self.s.error("expected ';'")

    def _declaration(self) -> None:
        s, module = self.s, self.module
        extern = False
        while s.here.text in _LINKAGE:
            extern |= s.next().text == ".extern"
        if s.here.text in (".entry", ".func"):
            function = self._function(s.next().text == ".entry")
            if function.name not in module.functions or function.stop:
                module.functions[function.name] = function
            return
        for variable in variables(s, extern):
            module.variables[variable.name] = variable

    def _function(self, entry: bool) -> Function:
        s = self.s
        line = s.line_of(s.here)
        directives: dict[str, tuple[int, ...]] = {}
        self._attribute()
        results = self._params() if s.here.text == "(" else ()
        name = s.expect_kind("name", "a function name")
        params = self._params() if s.here.text == "(" else ()
        while s.here.kind == "directive":
            word = s.here.text
            if word in _PERFORMANCE:
                s.next()
                values = [s.integer()] if _PERFORMANCE[word] else []
                while values and len(values) < _PERFORMANCE[word] and s.accept(","):
                    values.append(s.integer())
                if any(not 0 < v < 1 << 31 for v in values):
                    raise s.error(f"{word} must be positive", back=1)
                directives[word[1:]] = tuple(values)
            elif s.accept(".pragma"):
                self._skip_to_semicolon()
            elif not self._attribute():
                break
        function = Function(name, entry, params, results, directives, line)
        if not s.accept(";"):
            self._scan_body(function)
        return function

    def _attribute(self) -> bool:
        if not self.s.accept(".attribute"):
            return False
        while not self.s.accept(")"):
            if self.s.next().kind == "end":
                raise self.s.error("expected ')'")
        return True

    def _params(self) -> tuple[Param, ...]:
        s = self.s
        s.expect("(")
        found: list[Param] = []
        while not s.accept(")"):
            if found:
                s.expect(",")
            found.append(param(s))
        return tuple(found)

    def _scan_body(self, function: Function) -> None:
        """Find the end of a body, the names it uses, and its variables; statements are read later."""
        s = self.s
        s.expect("{")
        function.start = s.at
        names: set[str] = set()
        shared: list[Variable] = []
        depth = 1
        while depth:
            token = s.here
            if token.kind == "end":
                raise s.error(f"function {function.name!r} has no closing '}}'")
            if token.kind == "name":
                names.add(token.text)
            elif token.kind == "mark":
                depth += (token.text == "{") - (token.text == "}")
            elif token.text == ".loc":
                function.has_loc = True
            elif token.text == ".shared" and s.tokens[s.at - 1].text in ("{", "}", ";", ":"):
                shared.extend(variables(s, False))
                continue
            s.next()
        function.stop = s.at - 1
        function.names, function.variables = frozenset(names), tuple(shared)
