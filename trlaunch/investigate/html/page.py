"""What is on the page of an HTML report: plain data, made by `gather` and shown by the template."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CauseCard", "Lane", "Page", "Pane", "Row", "Section", "SiteCard"]


@dataclass(frozen=True, slots=True)
class CauseCard:
    """One cause: title, the rule's name, how likely (0 to 1), the facts that fired it, and what to try."""

    title: str
    rule: str
    score: float
    facts: tuple[str, ...]
    advice: str


@dataclass(frozen=True, slots=True)
class SiteCard:
    """Where it died, by one witness.

    Attributes
    ----------
    witness, what : str
    rows : tuple of (str, str)
        Names and values.
    operands : tuple of (str, str)
        Operands of the instruction and what they were.
    lines : tuple of (str, str, str, str)
        Level, place, text, and the anchor of the row of a pane, or nothing.
    """

    witness: str
    what: str
    rows: tuple[tuple[str, str], ...] = ()
    operands: tuple[tuple[str, str], ...] = ()
    lines: tuple[tuple[str, str, str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a level.

    Attributes
    ----------
    number : str
        Line, from 1; of SASS the offset in hexadecimal.
    text : str
    key : str
        What links it: rows with the same key came from the same line of the kernel's source. Empty: from none.
    exact : str
        Of SASS the anchor of its PTX line.
    marked : bool
        It is where the kernel died.
    """

    number: str
    text: str
    key: str = ""
    exact: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Pane:
    """A level: what it is called, its file, its rows."""

    level: str
    title: str
    file: str
    rows: tuple[Row, ...]

    @property
    def marked(self) -> Row | None:
        """The first row where the kernel died."""
        return next((row for row in self.rows if row.marked), None)


@dataclass(frozen=True, slots=True)
class Lane:
    """A thread's registers.

    Attributes
    ----------
    id : int
    thread : str
    faulted : bool
    registers : tuple of str
        Hexadecimal, in the order of the page's `register_names`.
    """

    id: int
    thread: str
    faulted: bool
    registers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A table of names and values: launch, arguments, device, versions."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML report.

    Attributes
    ----------
    title : str
    status : str
        ``"died"``, ``"hang"``, ``"ok"`` ...: the badge.
    good : bool
        The badge's colour.
    summary : tuple of (str, str)
        The first facts.
    causes : tuple of CauseCard
        The likeliest first.
    sites : tuple of SiteCard
    panes : tuple of Pane
        The levels, Python first.
    warp : str
        Which warp `lanes` are of.
    register_names : tuple of str
    used : frozenset of str
        Registers that the instruction names.
    lanes : tuple of Lane
    uniform : tuple of (str, str)
        Uniform registers and predicates of the warp.
    backtrace : tuple of str
    sections : tuple of Section
    notes : tuple of str
    made_by : str
    """

    title: str
    status: str
    good: bool = False
    summary: tuple[tuple[str, str], ...] = ()
    causes: tuple[CauseCard, ...] = ()
    sites: tuple[SiteCard, ...] = ()
    panes: tuple[Pane, ...] = ()
    warp: str = ""
    register_names: tuple[str, ...] = ()
    used: frozenset[str] = field(default_factory=frozenset)
    lanes: tuple[Lane, ...] = ()
    uniform: tuple[tuple[str, str], ...] = ()
    backtrace: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()
    made_by: str = ""

    @property
    def columns(self) -> int:
        """How many levels stand side by side: rows of equal length, three at most."""
        return 2 if len(self.panes) == 4 else min(max(len(self.panes), 1), 3)
