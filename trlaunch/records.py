"""``dataclass`` for the modules of a launch: what it makes is the standard library's, but it takes a fifth of the time.

`dataclasses.dataclass` compiles up to eight methods for each class, which takes half a millisecond to one; the thirty
classes that a first launch needs would be a twelfth of the time from the start of the process to a result. Here only
``__init__`` is compiled, and only for a class of which many objects are made; the other methods are closures. The
fields, as `dataclasses.replace`, `dataclasses.fields` and `dataclasses.asdict` want them, are made by the standard
library when they are first asked for, and it is imported then.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass", "field", "replace"]

_MISSING: Any = object()

_FILLED = 32
"""Objects of a class that are made before its ``__init__`` is compiled, which takes as long as some thirty of them."""


class _Factory:
    """The default that stands for what a factory makes."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


class _Field:
    """What `field` gives."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.default = settings.get("default", _MISSING)
        self.default_factory = settings.get("default_factory", _MISSING)
        self.repr = settings.get("repr", True)


class _Fields:
    """``__dataclass_fields__``, until it is first read."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body

    def __get__(self, instance: object, owner: Any) -> Any:
        import dataclasses

        body = {"__doc__": owner.__name__, **self.body}  # without, the signature would be taken for it
        for name, value in self.body.items():
            if isinstance(value, _Field):
                body[name] = dataclasses.field(**value.settings)
        model: Any = dataclasses.dataclass(init=False, eq=False, repr=False)(type(owner.__name__, (), body))
        owner.__dataclass_fields__ = model.__dataclass_fields__
        return owner.__dataclass_fields__


class _Initialiser:
    """``__init__``: fills objects itself, until enough of them were made that compiling it pays, or it is looked at."""

    def __init__(self, annotations: dict[str, Any], given: dict[str, Any], frozen: bool, checked: bool) -> None:
        self.given = annotations, given, frozen, checked
        self.names = tuple(annotations)
        self.owner: Any = None
        self.left = _FILLED

    def __set_name__(self, owner: Any, name: str) -> None:
        self.owner = owner

    def __get__(self, instance: object, owner: Any) -> Any:
        if instance is not None and self.left > 0:
            self.left -= 1
            return partial(self.fill, instance)
        made = self.compiled()
        return made if instance is None else made.__get__(instance, owner)

    def compiled(self) -> Any:
        """The function, which takes this one's place."""
        made = _initialiser(*self.given)
        made.__qualname__ = f"{self.owner.__qualname__}.__init__"
        made.__module__ = self.owner.__module__
        self.owner.__init__ = made
        return made

    def fill(self, instance: object, /, *args: Any, **named: Any) -> None:
        """What the function would do; where the arguments do not fit, it is asked to say so."""
        _, given, frozen, checked = self.given
        values = {**dict(zip(self.names, args, strict=False)), **named}
        fit = len(values) == len(args) + len(named)
        for name in self.names:
            if name not in values:
                values[name] = _start(given.get(name, _MISSING))
        if not fit or len(values) > len(self.names) or any(value is _MISSING for value in values.values()):
            self.compiled()(instance, *args, **named)
            return
        put = object.__setattr__ if frozen else setattr
        for name in self.names:
            put(instance, name, values[name])
        if checked:
            instance.__post_init__()  # type: ignore[attr-defined]


def _start(value: Any) -> Any:
    """What a field that was given `value` in the class begins with."""
    factory = getattr(value, "default_factory", _MISSING)
    return _default(value) if factory is _MISSING else factory()


def _default(value: Any) -> Any:
    return value.default if isinstance(value, _Field) else value


def _make(kind: type[Any], frozen: bool, slots: bool, eq: bool) -> type[Any]:
    if any(hasattr(base, "__dataclass_fields__") for base in kind.__bases__):
        raise TypeError(f"{kind.__qualname__}: dataclasses of dataclasses are the standard library's")
    body = dict(vars(kind))
    annotations = body.get("__annotations__", {})
    names = tuple(annotations)
    given = {name: body.pop(name) for name in names if name in body}
    shown = tuple(name for name in names if getattr(given.get(name), "repr", True))
    _refuse_defaults(kind, names, given)
    methods: dict[str, Any] = {
        "__init__": _Initialiser(annotations, given, frozen, "__post_init__" in body),
        "__repr__": _representation(shown),
        "__match_args__": names,
        "__replace__": _replace,
        "__dataclass_fields__": _Fields({"__annotations__": annotations, **given}),
    }
    if eq:
        key = _key(names)
        methods["__eq__"] = lambda self, other: key(self) == key(other) if type(other) is type(self) else NotImplemented
        methods["__hash__"] = (lambda self: hash(key(self))) if frozen else None
    if frozen:
        methods["__setattr__"], methods["__delattr__"] = _refuse_to_set, _refuse_to_delete
    for name, method in methods.items():
        if name not in body or (name == "__hash__" and body[name] is None):
            body[name] = method
    if slots:
        body["__slots__"] = names
        if frozen:  # pickle and copy would set attributes
            body["__getstate__"] = lambda self: [getattr(self, name) for name in names]
            body["__setstate__"] = lambda self, state: _restore(self, names, state)
    else:
        body |= {name: _default(value) for name, value in given.items() if _default(value) is not _MISSING}
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    made: type[Any] = type(kind)(kind.__name__, kind.__bases__, body)  # type: ignore[misc]
    made.__qualname__ = kind.__qualname__
    return made


def _refuse_defaults(kind: type[Any], names: tuple[str, ...], given: dict[str, Any]) -> None:
    """Raise for defaults that would be shared by all objects, and for fields without one behind those that have it."""
    optional = ""
    for name in names:
        if name in given and type(_default(given[name])).__hash__ is None:
            raise ValueError(f"{kind.__qualname__}.{name}: a mutable default would be shared: use default_factory")
        if name in given and _has_default(given[name]):
            optional = name
        elif optional:
            raise TypeError(f"{kind.__qualname__}.{name} has no default and follows {optional}, which has one")


def _has_default(value: Any) -> bool:
    return not isinstance(value, _Field) or {"default", "default_factory"} & value.settings.keys() != set()


def _key(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """The values, for comparisons and hashes."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _initialiser(
    annotations: dict[str, Any], given: dict[str, Any], frozen: bool, checked: bool
) -> Callable[..., None]:
    namespace: dict[str, Any] = {"_set": object.__setattr__, "_UNSET": _FACTORY}
    parameters, lines = ["self"], []
    for name in annotations:
        factory = getattr(given.get(name), "default_factory", _MISSING)
        default = _default(given.get(name, _MISSING))
        value = name
        if factory is not _MISSING:
            namespace[f"_make_{name}"] = factory
            parameters.append(f"{name}=_UNSET")
            value = f"_make_{name}() if {name} is _UNSET else {name}"
        elif default is not _MISSING:
            namespace[f"_default_{name}"] = default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        lines.append(f"    _set(self, {name!r}, {value})" if frozen else f"    self.{name} = {value}")
    if checked:
        lines.append("    self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or ["    pass"]), namespace)  # noqa: S102
    made: Callable[..., None] = namespace["__init__"]
    made.__annotations__ = {**annotations, "return": None}
    return made


def _representation(names: tuple[str, ...]) -> Callable[[Any], str]:
    @reprlib.recursive_repr()
    def represent(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return represent


def _refuse_to_set(_self: Any, name: str, _value: Any) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _replace(record: Any, /, **changes: Any) -> Any:
    return type(record)(**{name: getattr(record, name) for name in record.__match_args__} | changes)


def _restore(self: Any, names: tuple[str, ...], state: list[Any]) -> None:
    for name, value in zip(names, state, strict=True):
        object.__setattr__(self, name, value)


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    replace = _replace

    def dataclass(kind: Any = None, /, *, frozen: bool = False, slots: bool = False, eq: bool = True) -> Any:
        """`dataclasses.dataclass`, for classes whose bases are no dataclasses, with these settings alone."""
        if kind is None:
            return lambda kind: _make(kind, frozen, slots, eq)
        return _make(kind, frozen, slots, eq)

    def field(*, default: Any = _MISSING, default_factory: Any = _MISSING, repr: bool = True) -> Any:  # noqa: A002
        """`dataclasses.field`, with these settings alone."""
        given = {"default": default, "default_factory": default_factory, "repr": repr}
        return _Field(**{name: value for name, value in given.items() if value is not _MISSING})
