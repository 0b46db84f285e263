"""Causes: the rules over the evidence, and their ranking. "unknown" is an answer."""

from __future__ import annotations

from collections.abc import Iterable

from trlaunch.investigate import rules_control, rules_launch, rules_memory
from trlaunch.investigate.cause import Cause
from trlaunch.investigate.evidence import Evidence

__all__ = ["LIKELY", "causes"]

RULES = (*rules_launch.RULES, *rules_memory.RULES, *rules_control.RULES)

#: Below this score a cause is named after "unknown".
LIKELY = 0.45
#: What each further witness of the same cause adds.
_AGREEMENT = 0.005


def causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Every cause that a rule speaks for, the likeliest first; ``unknown`` among them where none is likely.

    Of a launch that went well, or a program that ended by itself, there are those that the audit warns of.
    """
    found = merged(cause for rule in RULES for cause in rule(evidence))
    if evidence.outcome.status in ("ok", "exit"):
        return found
    if not found or found[0].score < LIKELY:
        return (Cause("unknown", LIKELY, (_shown(evidence),)), *found)
    return found


def merged(found: Iterable[Cause]) -> tuple[Cause, ...]:
    """One cause a rule, with the facts of all; two that agree count a little more than one."""
    by_rule: dict[str, list[Cause]] = {}
    for cause in found:
        by_rule.setdefault(cause.rule, []).append(cause)
    result = []
    for rule, every in by_rule.items():
        every.sort(key=lambda cause: -cause.score)
        facts = tuple(dict.fromkeys(fact for cause in every for fact in cause.facts if fact))
        score = every[0].score if every[0].score >= 1 else min(0.99, every[0].score + _AGREEMENT * (len(every) - 1))
        result.append(Cause(rule, round(score, 3), facts))
    return tuple(sorted(result, key=lambda cause: -cause.score))


def _shown(evidence: Evidence) -> str:
    error = evidence.died
    return error.message.partition("\n")[0] if error is not None else f"the trial's status is {evidence.outcome.status}"
