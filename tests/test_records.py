"""`trlaunch.records` against the standard library: the same classes by both decorators."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest

from trlaunch import records
from trlaunch.image import Image, ImageKernel
from trlaunch.tensors import Pointer

BODIES = {
    "fields": "a: int\n    b: str = 'x'\n    c: int | None = None",
    "one": "a: int = 3",
    "none": "pass",
    "factory": "a: int\n    b: list = field(default_factory=list)\n"
    "    c: dict = field(default_factory=dict, repr=False)",
    "hidden": "a: int\n    b: int = field(default=7, repr=False)",
    "checked": "a: int\n    b: int = 2\n    def __post_init__(self):\n        if self.a < 0: raise ValueError(self.a)",
    "own": "a: int = 1\n    def __repr__(self): return 'own'\n    def __eq__(self, other): return True\n"
    "    def __hash__(self): return 5\n    @property\n    def twice(self): return 2 * self.a",
}
SETTINGS = [
    {"frozen": frozen, "slots": slots, "eq": eq} for frozen in (0, 1) for slots in (0, 1) for eq in (True, False)
]


def both(body, settings):
    """The class as each decorator makes it, and as a module has it, so that it can be pickled."""
    made = []
    for decorator in (dataclasses.dataclass, records.dataclass):
        names = {"field": inspect.getmodule(decorator).field, "__name__": __name__}
        exec(f"from __future__ import annotations\nclass A:\n    '''Doc.'''\n    {BODIES[body]}\n", names)
        made.append(decorator(**settings)(names["A"]))
    return made


def outcome(function, *given):
    try:
        return function(*given)
    except Exception as error:  # noqa: BLE001  whatever the one raises the other must raise
        return type(error), str(error)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("body", BODIES)
def test_the_classes_are_the_same(body, settings, monkeypatch):
    results = []
    for kind in both(body, settings):
        monkeypatch.setitem(globals(), "A", kind)
        given = [(), (1,), (2, 3), (-1,), (1, 2, 3, 4)]
        objects = [outcome(kind, *arguments) for arguments in given]
        seen = [str(inspect.signature(kind)), kind.__name__, kind.__doc__, kind.__match_args__, kind.__module__]
        seen += [sorted(vars(kind).keys() & {"__slots__", "__hash__", "__setattr__", "twice"})]
        for o in objects:
            if type(o) is not kind:
                seen.append(o)
                continue
            seen += [repr(o), o == kind(1) if objects[1] is not None and body != "none" else o == kind(), o == 5]
            seen += [dataclasses.asdict(o), [(f.name, f.type, f.repr) for f in dataclasses.fields(o)]]
            seen += [outcome(lambda o=o: dataclasses.replace(o, a=9).a), outcome(setattr, o, "a", 5) is None]
            seen += [outcome(setattr, o, "other", 5) is None, outcome(delattr, o, "nothing") is None]
            if settings["eq"] or body == "own":
                seen += [pickle.loads(pickle.dumps(o)) == o, copy.deepcopy(o) == o, isinstance(outcome(hash, o), int)]
        results.append(seen)
    assert results[0] == results[1]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("frozen", [False, True])
def test_arguments_are_taken_and_refused_alike(body, frozen):
    given = [((), {}), ((), {"a": 1}), ((), {"b": 1, "a": 2}), ((1,), {"a": 2}), ((), {"z": 2}), (range(9), {})]
    results = []
    for made in (0, 1):
        seen = []
        for args, named in given:
            kind = both(body, {"frozen": frozen})[made]  # its first object is not made by compiled code
            seen += [outcome(lambda k=kind, a=args, n=named: repr(k(*a, **n))) for _ in range(30)]
        results.append(seen)
    assert results[0] == results[1]


def test_hashes_are_those_of_equal_values():
    assert len({Pointer(5), Pointer(5), Pointer(6)}) == 2
    assert Pointer(5) != (5, None)


def test_fields_of_public_classes_are_there():
    assert [field.name for field in dataclasses.fields(Image)][:3] == ["format", "target", "data"]
    assert dataclasses.is_dataclass(ImageKernel)
    assert dataclasses.replace(Pointer(5), nbytes=3) == Pointer(5, 3)


def test_a_dataclass_of_a_dataclass_is_refused():
    with pytest.raises(TypeError, match="standard library"):

        @records.dataclass
        class Derived(Pointer):
            pass


def test_what_it_does_not_do_is_refused():
    with pytest.raises(TypeError, match="compare"):
        records.field(compare=False)
    with pytest.raises(ValueError, match=r"A\.b: a mutable default would be shared: use default_factory"):
        records.dataclass(type("A", (), {"__annotations__": {"a": int, "b": list}, "b": []}))
    with pytest.raises(TypeError, match=r"A\.b has no default and follows a, which has one"):
        records.dataclass(type("A", (), {"__annotations__": {"a": int, "b": int}, "a": 1}))


class Labelled(Pointer):
    __slots__ = ("label",)


def test_a_subclass_with_slots_of_its_own_is_copied():
    kept = copy.copy(Labelled(16))
    assert type(kept) is Labelled
    assert kept.address == 16
