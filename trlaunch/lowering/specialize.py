"""A Python function and example arguments -> a source for Triton's compiler, specialised as a launch would be.

Triton's own binder decides: what is asked of it here is what ``JITFunction.run`` asks before it compiles. Arguments
that Triton does not understand (NumPy's, CuPy's, DLPack's, trlaunch's arrays) are shown to it as dtype and address.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.devices import default_device, get
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, CheckError, LoweringError, TrlaunchError
from trlaunch.language import marking
from trlaunch.lowering.lower import lower_source
from trlaunch.lowering.triton_compiler import Compiler, load, release, release_number
from trlaunch.packing import describe
from trlaunch.placement import place_of
from trlaunch.target import Target
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import dtype_name, is_tensor, view

__all__ = [
    "Bound",
    "Compiled",
    "Specialised",
    "bind",
    "compile_function",
    "derived",
    "grid_of",
    "is_dtype",
    "is_gluon",
    "jit_function",
    "known_to_autotuner",
    "make_jit_function",
    "runtime_leaves",
    "specialise",
    "where",
    "without_const",
]


@dataclass(frozen=True, slots=True)
class Bound:
    """A function's parameters with the values of one call.

    Attributes
    ----------
    function : JITFunction
        Triton's or Gluon's.
    values : mapping of str to object
        Every parameter in order, defaults filled in.
    options : mapping of str to object
        Keywords that are no parameters: compile options.
    """

    function: Any
    values: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Specialised:
    """What Triton compiles for one call.

    Attributes
    ----------
    source : ASTSource
        Or Gluon's.
    types : mapping of str to object
        Triton's type of each parameter in order, ``"constexpr"`` for what is compiled in (constexpr parameters,
        ``None``, integers specialised to 1), a tuple of types for a tuple.
    """

    source: Any
    types: Mapping[str, Any]


# --- functions -------------------------------------------------------------------------------------------------------


def jit_function(function: Any) -> Any:
    """Triton's ``JITFunction`` of a function; a plain one is made into one.

    Raises
    ------
    LoweringError
        Triton is not installed.
    ArgumentError
        It is something else, such as an autotuner.
    """
    kind = load("runtime.jit").JITFunction
    if isinstance(function, kind):
        return function
    if inspect.isfunction(function):
        return make_jit_function(kind, function)
    inner = getattr(function, "fn", None)
    if inner is not None:
        raise ArgumentError(
            f"{type(function).__name__} around {getattr(inner, '__name__', inner)!s}: expected the @triton.jit or "
            f"@gluon.jit function under it (.fn), with the values it would choose as keywords"
        )
    raise ArgumentError(f"{describe(function)}: expected a @triton.jit, @gluon.jit or plain Python function")


def make_jit_function(kind: Any, function: Any, **options: Any) -> Any:
    """A ``JITFunction`` of class `kind`; `options` are ``triton.jit``'s keywords."""
    try:
        return kind(function, **options)
    except (OSError, ValueError) as error:  # its source cannot be read: typed at a prompt, or made by exec
        raise LoweringError(
            f"{function.__qualname__}: Triton {release()} compiles functions from their source, which cannot be read "
            f"({error}); define it in a file",
            stage="python",
        ) from error


def derived(function: Any, class_over: Callable[[type], type], options: Mapping[str, Any]) -> Any:
    """A function of a class derived from Triton's (or Gluon's) ``JITFunction``.

    Parameters
    ----------
    function : JITFunction or function
    class_over : callable
        The derived class by the class of Triton's.
    options : mapping
        ``triton.jit``'s keywords, for a plain function.
    """
    kind = load("runtime.jit").JITFunction
    if inspect.isfunction(function):
        return make_jit_function(class_over(kind), function, **options)
    if not isinstance(function, kind):
        name = type(function).__name__
        raise ArgumentError(
            f"@trlaunch.jit above {name}: expected a function; put it under @triton.autotune and @triton.heuristics, "
            f"where @triton.jit would be"
        )
    if options:
        raise ArgumentError(
            f"{', '.join(options)}: {function.__name__} was made by a jit of Triton's already: give them there"
        )
    base = next(c for c in type(function).__mro__ if c.__module__.partition(".")[0] == "triton")
    copy: Any = object.__new__(class_over(base))
    vars(copy).update(vars(function))  # its source may have been changed since: made anew, it would be lost
    return copy


def known_to_autotuner(error: TrlaunchError) -> TrlaunchError:
    """The error, as one of those that ``triton.autotune`` takes for "this configuration does not work" where it is.

    That is a failed ``tl.static_assert``, a failed ptxas, and more shared memory, threads or tensor memory than the
    device has.
    """
    module, names = load("runtime.errors"), ("PTXASError", "OutOfResources")
    kinds = [load("compiler.errors").CompileTimeAssertionFailure, *(getattr(module, n, None) for n in names)]
    assertion, assembler, resources = kinds
    kind = None
    if isinstance(error, LoweringError) and error.__cause__ is not None:
        kind = next((k for k in (assertion, assembler) if k is not None and isinstance(error.__cause__, k)), None)
    elif isinstance(error, CheckError):
        failed = {finding.rule for finding in error.report.errors}
        kind = resources if failed and failed <= {"shared", "block", "tmem"} else None
    if kind is None:
        return error
    return _as_both(error, kind)


def _as_both(error: TrlaunchError, kind: type[Exception]) -> TrlaunchError:
    own = type(error)
    both: Any = type(own.__name__, (own, kind), {"__str__": Exception.__str__, "__reduce__": Exception.__reduce__})
    made: TrlaunchError = both.__new__(both)
    vars(made).update(vars(error))
    made.args = error.args
    return made


def is_gluon(function: Any) -> bool:
    """Whether a ``JITFunction`` is Gluon's (3.4 and later)."""
    return bool(getattr(function, "is_gluon", lambda: False)())


# --- binding ---------------------------------------------------------------------------------------------------------


def bind(function: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> Bound:
    """Parameters by name, as Python would bind them; keywords that are no parameters become options.

    Raises
    ------
    ArgumentError
        A parameter has no value, or there are too many.
    """
    name = function.__name__
    values: dict[str, Any] = {}
    rest = dict(keywords)
    position = 0
    for key, parameter in function.signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            values[key] = tuple(args[position:])
            position = len(args)
        elif parameter.kind is not parameter.KEYWORD_ONLY and position < len(args):
            if key in rest:
                raise ArgumentError(f"{name} got {key!r} both by position and by keyword")
            values[key] = args[position]
            position += 1
        elif key in rest:
            values[key] = rest.pop(key)
        elif parameter.default is not parameter.empty:
            values[key] = parameter.default
        else:
            raise ArgumentError(f"{name}{function.signature}: expected a value for {key!r}, found none")
    if position < len(args):
        raise ArgumentError(
            f"{name}{function.signature}: expected at most {position} positional arguments, found {len(args)}"
        )
    return Bound(function, values, rest)


def runtime_leaves(values: Iterable[Any], types: Iterable[Any]) -> list[Any]:
    """The values that are passed at a launch: those that are not compiled in, tuples flattened."""
    leaves: list[Any] = []
    for value, kind in zip(values, types, strict=True):
        if isinstance(kind, tuple):
            leaves += runtime_leaves(value, kind)
        elif kind != "constexpr":
            leaves.append(value)
    return leaves


# --- what Triton is shown --------------------------------------------------------------------------------------------


class _Tensor:
    """A tensor as Triton's binder sees one."""

    def __init__(self, dtype: str, address: int) -> None:
        self.dtype = dtype
        self._address = address

    def data_ptr(self) -> int:
        return self._address


class _TensorMap:
    """A by-value CUtensorMap as Triton 3.2 and 3.3 know it: ``nvTmaDesc``."""

    tma_desc_cpu_ptr = 0


def _shown(value: Any) -> Any:
    """`value` as Triton's binder understands it; what it does not know is left for it to refuse."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, tuple):
        items = [_shown(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, TensorDescriptor):
        return _shown_descriptor(value)
    if isinstance(value, str) and value.startswith("*"):
        return _Tensor(_triton_dtype(value[1:], value), 0)
    if is_dtype(value):
        return _Tensor(_triton_dtype(value, value), 0)
    if _is_numpy_scalar(value):
        return value.item()  # Triton would take anything with a dtype for a tensor
    if callable(getattr(value, "data_ptr", None)) or not is_tensor(value):
        return value
    try:
        tensor = view(value)
    except TypeError as error:
        raise ArgumentError(f"{describe(value)}: expected a tensor, found one that cannot be used: {error}") from None
    return _Tensor(_triton_dtype(tensor.dtype, value), tensor.address)


def _is_numpy_scalar(value: Any) -> bool:
    return getattr(value, "shape", None) == () and callable(getattr(value, "item", None)) and not is_tensor(value)


def is_dtype(value: Any) -> bool:
    """Whether a value is a dtype of NumPy or torch: ``fn.warmup`` takes one for an aligned tensor of it."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    return (module == "torch" and kind.__name__ == "dtype") or (module == "numpy" and "dtype" in kind.__name__.lower())


def _triton_dtype(dtype: Any, value: Any) -> str:
    name = dtype if isinstance(dtype, str) else None if dtype is None else dtype_name(dtype)
    if name is None or (name := dtype_name(name)) is None:
        raise ArgumentError(f"{describe(value)}: Triton has no name for its dtype")
    return "bool" if name in ("i1", "u1") else name  # the releases' own names for a bool differ


def _shown_descriptor(descriptor: TensorDescriptor) -> Any:
    if release_number() < (3, 4):
        if release_number() < (3, 2):
            raise ArgumentError(
                f"Triton {release()} has no descriptor parameters: expected the descriptor in device memory, "
                f"TensorDescriptor.on_device()"
            )
        return _TensorMap()
    resolved = descriptor.resolve()
    kind = load("tools.tensor_descriptor").TensorDescriptor
    shown = kind.__new__(kind)  # __init__ asks torch's questions of the base
    for name, value in (
        ("base", _Tensor(_triton_dtype(resolved.base.dtype, descriptor.tensor), resolved.base.address)),
        ("shape", list(resolved.shape)),
        ("strides", list(resolved.strides)),
        ("block_shape", list(resolved.block)),
        ("padding", descriptor.padding),
        ("round_f32_to_tf32", descriptor.round_f32_to_tf32),
    ):
        object.__setattr__(shown, name, value)
    return shown


# --- specialising ----------------------------------------------------------------------------------------------------


def specialise(bound: Bound, compiler: Compiler) -> Specialised:
    """The source that ``JITFunction.run`` would compile for these arguments.

    Raises
    ------
    ArgumentError
        Triton's binder does not take a value.
    """
    function = bound.function
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for param, (key, value) in zip(function.params, bound.values.items(), strict=True):
        kind = function.signature.parameters[key].kind
        if param.is_constexpr:
            shown = value.item() if _is_numpy_scalar(value) else value
        else:
            shown = _shown(value)
        if kind is inspect.Parameter.KEYWORD_ONLY:
            named[key] = shown
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            positional.extend(shown)
        else:
            positional.append(shown)
    try:
        ask = _ask_since_3_3 if release_number() >= (3, 3) else _ask_until_3_2
        signature, constants, attributes = ask(function, compiler.backend, positional, named)
    except (AttributeError, AssertionError, KeyError, TypeError) as error:
        found = ", ".join(f"{name}={describe(value)}" for name, value in bound.values.items())
        raise ArgumentError(
            f"{function.__name__}: Triton {release()} cannot specialise it for {found}: {error}"
        ) from error
    if is_gluon(function):
        source_kind = load("experimental.gluon._runtime").GluonASTSource
    else:
        source_kind = load("compiler.compiler").ASTSource
    types = {key: "constexpr" if key in constants else without_const(signature[key]) for key in bound.values}
    return Specialised(source_kind(function, signature, constants, attributes), types)


def without_const(kind: Any) -> Any:
    """``*fp16`` of ``*kfp16``, a pointer that is only read; tuples throughout."""
    if isinstance(kind, tuple):
        return tuple(without_const(item) for item in kind)
    return "*" + kind[2:] if kind.startswith("*k") else kind


_Parts = tuple[dict[str, Any], dict[Any, Any], Any]  # signature, constants, attributes of an ASTSource


def _ask_since_3_3(function: Any, backend: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> _Parts:
    """A type and a specialisation (``"D"``: divisible by 16) for every parameter; constants by path."""
    utils = load("_utils")
    binder = load("runtime.jit").create_function_from_signature(function.signature, function.params, backend)
    values, specialisation, _ = binder(*positional, **named)
    types = [entry[0] for entry in specialisation]
    marks = ["" if entry[0] == "constexpr" else entry[1] for entry in specialisation]
    constants = {
        path: utils.get_iterable_path(list(values.values()), path)
        for path in utils.find_paths_if(types, lambda _, kind: kind == "constexpr")
    }
    attributes = {
        path: backend.parse_attr(utils.get_iterable_path(marks, path))
        for path in utils.find_paths_if(marks, lambda _, mark: isinstance(mark, str))
    }
    return dict(zip(values, types, strict=True)), constants, attributes


def _ask_until_3_2(function: Any, backend: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> _Parts:
    """Types of the parameters that are no constexprs; constants by name, those of value 1 and ``None`` among them."""
    create = load("runtime.jit").create_function_from_signature
    takes_backend = release_number() >= (3, 2)
    binder = create(function.signature, function.params, *([backend] if takes_backend else []))
    values, kinds, *_ = binder(*positional, **named)
    given = tuple(values.values())
    if takes_backend:
        attributes = backend.get_attrs_descriptor(function.params, given)
        ones = set(attributes.get_constants())
    else:
        attributes = function._get_config(*given)
        ones = set(attributes.equal_to_1)
    runtime = [param for param in function.params if not param.is_constexpr]
    # A None is a null pointer here, and compiled in.
    signature = {p.name: "*i8" if kind == "none" else kind for p, kind in zip(runtime, kinds, strict=False)}
    constants = {
        p.name: value
        for p, value in zip(function.params, given, strict=True)
        if p.is_constexpr or p.num in ones or value is None
    }
    if callable_ := [name for name, value in constants.items() if callable(value)]:
        raise TypeError(f"{callable_[0]!r} is a function, which is no constexpr before Triton 3.3")
    return signature, constants, attributes


# --- where it will run -----------------------------------------------------------------------------------------------


def where(target: Target | str | None, device: str | Device | None, values: Sequence[Any]) -> tuple[Level, Target]:
    """How far to compile, and for what: the target given, else that of the device the values are on."""
    chosen = None if device is None else Device.parse(device)
    if target is not None:
        target = target if isinstance(target, Target) else Target.parse(target)
    else:
        place = place_of(values) if chosen is None else None
        chosen = Device.parse(place) if place is not None else chosen or default_device()
        target = get(chosen.driver).properties(chosen.ordinal).target
    if chosen is not None and chosen.driver == "emulator":
        return Level.PTX, target
    # AMDGCN: releases up to 3.4 cannot link, and trlaunch.hip.assembler asks the others first.
    return Level.AMDGCN if target.backend == "hip" else Level.CUBIN, target


def grid_of(grid: Any, bound: Bound) -> Any:
    """The grid of a call; a callable is given the parameters by name, as Triton's contract is."""
    return grid(dict(bound.values)) if callable(grid) else grid


# --- compiling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compiled:
    """A function compiled for one specialisation.

    Attributes
    ----------
    artifact : Artifact
        The binary, or PTX for the emulator, with the levels above it beside it.
    types : mapping of str to object
        As in `Specialised`: which of the function's parameters the kernel takes.
    """

    artifact: Artifact
    types: Mapping[str, Any]


def compile_function(
    bound: Bound, to: Level, target: Target, *, marked: bool | str = False, first: bool = False
) -> Compiled:
    """Compile a function for the arguments it is bound to.

    Parameters
    ----------
    bound : Bound
        Its options are Triton's, by name.
    to : Level
        Where to stop.
    target : Target
    marked : bool or "fp32"
        Leave the marks of `trlaunch.language` in the text; stop at the first level, which can have them.
    first : bool
        Stop at the first level.

    Raises
    ------
    ArgumentError
        Triton cannot specialise the function for a value.
    LoweringError
        Triton is missing, does not know an option, or failed; its message names the line of the function.
    """
    gluon = is_gluon(bound.function)
    options = {key: value for key, value in bound.options.items() if value is not None}
    if options.get("debug", getattr(bound.function, "debug", None)) or os.environ.get("TRITON_DEBUG", "0") == "1":
        options["debug"] = True
    specialised = specialise(bound, Compiler(target, {}, gluon=gluon, strict=options))
    if marked or first:
        to = Level.TTGIR if gluon else Level.TTIR
    with marking(marked):
        artifact = lower_source(specialised.source, to, target, options, gluon=gluon)
    compiled_in = {name: _plain(bound.values[name]) for name, t in specialised.types.items() if t == "constexpr"}
    return Compiled(replace(artifact, constants=compiled_in), specialised.types)


def _plain(value: Any) -> int | float | str | bool | None:
    """What was compiled in, as a file can hold it: functions and types by name."""
    value = getattr(value, "value", value)  # of tl.constexpr
    if value is None or type(value) in (int, float, str, bool):
        return value  # type: ignore[no-any-return]
    return str(getattr(value, "__name__", value))
