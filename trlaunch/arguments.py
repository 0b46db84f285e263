"""The language in which a command or a trial states arguments: ``a=rand:float16:512x512``, ``b=@w.npy``, ``0=null``.

Reading a specification allocates nothing; `ArgumentSpec.value` does.
"""

from __future__ import annotations

import math
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trlaunch.errors import TrlaunchError
from trlaunch.scalars import SCALARS
from trlaunch.tensors import dtype_name, numpy_dtype

__all__ = ["DTYPES", "GENERATORS", "ArgumentSpec", "UsageError", "as_floats", "parse_argument", "parse_grid"]


class UsageError(TrlaunchError):
    """The command line says something that cannot be understood."""


# Triton's name of every element type -> the NumPy type that holds it. NumPy has no bfloat16 and no fp8: an array of
# these holds their bits.
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(numpy_dtype(name)) for name in SCALARS}
_NUMPY_NAME = re.compile(r"(?:u?int|b?float)\d{1,2}(?:_e\dm\d\w*)?\Z|bool\Z|half\Z")
_BIT_TYPES = frozenset(name for name in DTYPES if name == "bf16" or name.startswith("fp8"))
_FLOATS = ("fp16", "bf16", "fp32", "fp64")

#: Generator -> what its last, optional field means.
GENERATORS = {
    "zeros": None,
    "ones": None,
    "empty": None,
    "arange": None,
    "rand": "seed",
    "randn": "seed",
    "full": "value",
}

_KEY = re.compile(r"(?:(?P<index>\d{1,4})|(?P<name>[A-Za-z_][\w.$]*))\Z")
_SHAPE = re.compile(r"\d{1,18}(?:x\d{1,18})*\Z")
_INT = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|\d+)\Z")
_MAX_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class ArgumentSpec:
    """One ``--arg``.

    Attributes
    ----------
    key : str or int
        Parameter name, or position among the arguments.
    kind : {"scalar", "null", "file"} or a generator's name
    type : str or None
        Triton's name of the element or scalar type, where stated. Of a file it says what its bits stand for.
    shape : tuple of int
        Of a generated array.
    number : int, float, bool or None
        A scalar's value, or what ``full`` fills with.
    seed : int or None
        Of ``rand`` and ``randn``.
    path : pathlib.Path or None
        Of a file.
    text : str
        The specification as it was given, without the key.
    """

    key: str | int
    kind: str
    text: str
    type: str | None = None
    shape: tuple[int, ...] = ()
    number: int | float | bool | None = None
    seed: int | None = None
    path: Path | None = None

    def value(self, default_seed: int = 0) -> Any:
        """The scalar, the array, or ``None`` for ``null``.

        Parameters
        ----------
        default_seed : int
            Seed of a random array whose specification states none.

        Raises
        ------
        UsageError
            The file cannot be read, or there is not enough memory.
        """
        if self.kind == "null":
            return None
        if self.kind == "scalar":
            with np.errstate(over="ignore"):
                return self.number if self.type is None else DTYPES[self.type].type(self.number)
        if self.path is not None:
            return _read_npy(self.path, self.type)
        try:
            with np.errstate(over="ignore"):  # 1e9 as fp16 is infinity, as on the GPU
                return self._generate(default_seed)
        except MemoryError:
            raise UsageError(f"argument {self.key}={self.text}: not enough memory for {self.shape}") from None

    def _generate(self, default_seed: int) -> npt.NDArray[Any]:
        assert self.type is not None
        dtype = DTYPES[self.type]
        if self.kind in ("rand", "randn"):
            generator = np.random.default_rng(default_seed if self.seed is None else self.seed)
            draw = generator.random if self.kind == "rand" else generator.standard_normal
            return _as_type(draw(self.shape, dtype=np.float64 if self.type == "fp64" else np.float32), self.type)
        if self.kind == "arange":
            return _as_type(np.arange(math.prod(self.shape), dtype=np.int64).reshape(self.shape), self.type)
        if self.kind == "empty":
            return np.empty(self.shape, dtype)
        fill = {"zeros": 0, "ones": 1, "full": self.number}[self.kind]
        assert fill is not None
        if self.type in _BIT_TYPES:
            return np.full(self.shape, int.from_bytes(SCALARS[self.type].pack(fill), "little"), dtype)
        return np.full(self.shape, fill, dtype)


def parse_argument(text: str) -> ArgumentSpec:
    """Read ``KEY=VALUE``.

    Raises
    ------
    UsageError
        It does not follow the language; the message shows what was expected.
    """
    key_text, equals, body = text.partition("=")
    m = _KEY.match(key_text)
    if not equals or m is None or not body:
        raise UsageError(f"argument {text!r}: expected NAME=VALUE or POSITION=VALUE, for example M=512 or 0=@a.npy")
    key: str | int = m["name"] or int(m["index"])
    if body.startswith("@"):
        path, colon, type_text = body[1:].rpartition(":")
        if not colon or _type_name(type_text) is None:  # a colon of the path itself
            path, type_text = body[1:], ""
        if not path:
            raise UsageError(f"argument {text!r}: expected a file after @, for example @weights.npy")
        return ArgumentSpec(key, "file", body, type=_type_name(type_text), path=Path(path))
    if body in ("null", "none", "None"):
        return ArgumentSpec(key, "null", body)
    head, *rest = body.split(":")
    if head in GENERATORS:
        return _parse_generator(key, body, head, rest)
    return _parse_scalar(key, body, head, rest)


def _parse_generator(key: str | int, body: str, kind: str, fields: list[str]) -> ArgumentSpec:
    last = GENERATORS[kind]
    form = f"{kind}:DTYPE:SHAPE" + {None: "", "seed": "[:SEED]", "value": ":VALUE"}[last]
    where = f"argument {key}={body}"
    if not (2 <= len(fields) <= (2 if last is None else 3)) or (last == "value" and len(fields) != 3):
        example = f"{kind}:float16:512x512" + (":1" if last == "value" else "")
        raise UsageError(f"{where}: expected {form}, for example {example}")
    type_ = _type(fields[0], where)
    if not _SHAPE.match(fields[1]):
        raise UsageError(f"{where}: shape {fields[1]!r}, expected sizes joined by x, for example 512x512")
    shape = tuple(int(size) for size in fields[1].split("x"))
    if math.prod(shape) * DTYPES[type_].itemsize > _MAX_BYTES or len(shape) > 32:
        raise UsageError(f"{where}: shape {fields[1]} is more than {_MAX_BYTES >> 30} GiB, or more than 32 dimensions")
    if kind in ("rand", "randn") and type_ not in _FLOATS:
        raise UsageError(f"{where}: {kind} draws {', '.join(_FLOATS)}, found {type_}; use arange or @file.npy")
    if kind == "arange" and type_.startswith("fp8"):
        raise UsageError(f"{where}: arange does not count in {type_}; use full with a byte, or @file.npy")
    if kind == "ones" and type_.startswith("fp8"):
        raise UsageError(f"{where}: {type_} is given by its byte: use full:{type_}:{fields[1]}:BYTE")
    seed = number = None
    if len(fields) == 3 and last == "seed":
        if not re.fullmatch(r"\d{1,18}", fields[2]):
            raise UsageError(f"{where}: seed {fields[2]!r}, expected a non-negative integer")
        seed = int(fields[2])
    elif len(fields) == 3:
        number = _number(fields[2], where)
        _check_fits(number, type_, where)
    return ArgumentSpec(key, kind, body, type=type_, shape=shape, seed=seed, number=number)


def _parse_scalar(key: str | int, body: str, head: str, rest: list[str]) -> ArgumentSpec:
    where = f"argument {key}={body}"
    number = _number(head, where)
    if not rest:
        return ArgumentSpec(key, "scalar", body, number=number)
    if len(rest) > 1:
        raise UsageError(f"{where}: expected NUMBER or NUMBER:TYPE, for example 512:i64")
    type_ = _type(rest[0], where)
    if type_ in _BIT_TYPES:
        raise UsageError(f"{where}: a scalar takes its {type_} from the kernel's signature: leave the type out")
    _check_fits(number, type_, where)
    return ArgumentSpec(key, "scalar", body, type=type_, number=number)


def _type(text: str, where: str) -> str:
    name = _type_name(text)
    if name is None:
        raise UsageError(f"{where}: type {text!r}, expected one of {', '.join(DTYPES)} or a NumPy name such as float16")
    return name


def _type_name(text: str) -> str | None:
    return text if text in DTYPES else dtype_name(text) if _NUMPY_NAME.match(text) else None


def _number(text: str, where: str) -> int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if len(text) > 100:
        raise UsageError(f"{where[:60]}...: a number of {len(text)} characters")
    if _INT.match(text):
        return int(text, 0) if "x" in text.lower() else int(text)
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{where}: {text[:40]!r} is no number and no generator; expected a number, true, false, null, @FILE.npy, "
            f"or one of {', '.join(GENERATORS)} with :DTYPE:SHAPE"
        ) from None


def _check_fits(number: int | float | bool, type_: str, where: str) -> None:
    try:
        SCALARS[type_].pack(number)
    except TypeError:
        raise UsageError(f"{where}: {number!r} is no {type_}, expected an integer") from None
    except OverflowError as error:
        raise UsageError(f"{where}: {error} ({type_})") from None


def _as_type(values: npt.NDArray[Any], type_: str) -> npt.NDArray[Any]:
    if type_ != "bf16":
        return values.astype(DTYPES[type_])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def as_floats(values: npt.NDArray[Any], type_: str | None) -> npt.NDArray[Any]:
    """Values of an array for people: bfloat16 bits become fp32; everything else is returned as it is."""
    return (values.astype(np.uint32) << 16).view(np.float32) if type_ == "bf16" else values


def _read_npy(path: Path, type_: str | None) -> npt.NDArray[Any]:
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, SyntaxError, OverflowError, MemoryError, tokenize.TokenError) as error:
        raise UsageError(f"{str(path)!r} is no .npy file of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{str(path)!r} holds dtype {array.dtype}: expected booleans, integers or floats")
    if type_ is not None and array.dtype != DTYPES[type_]:
        raise UsageError(f"{str(path)!r} holds {array.dtype}: expected {DTYPES[type_]} for {type_}")
    return np.ascontiguousarray(array)


def parse_grid(text: str) -> tuple[int, ...]:
    """Read ``8``, ``8,8`` or ``8,8,2``.

    Raises
    ------
    UsageError
        It is not one to three positive integers.
    """
    sizes = text.split(",")
    if not 1 <= len(sizes) <= 3 or not all(re.fullmatch(r"0*[1-9]\d{0,9}", size.strip()) for size in sizes):
        raise UsageError(f"grid {text!r}: expected one to three positive integers, for example 8 or 8,8")
    return tuple(int(size) for size in sizes)
