"""The form of the facts in the record of a run: what may be read from them without another look at their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Form: TypeAlias = "Callable[[Any], bool] | Mapping[str, Form] | tuple[Form]"
"""A test of a value; or the forms of an object's facts, of which those with a `?` may be absent, and there may be more;
or the form of each value of a list."""

_MOST = 1e300  # beyond any number of a record, and within those that are a float


def check(facts: Mapping[str, Any]) -> None:
    """Raise `ValueError` that names the first fact of another form."""
    _check(facts, _FACTS, "facts")


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number that is, or becomes, a float."""
    return type(value) in (int, float) and -_MOST <= value <= _MOST


def _check(value: Any, form: Form, place: str) -> None:
    is_good = form(value) if callable(form) else isinstance(value, list if isinstance(form, tuple) else dict)
    if not is_good:
        raise ValueError(f"`{place}` has the wrong type")
    if isinstance(form, tuple):
        for number, each in enumerate(value):
            _check(each, form[0], f"{place}[{number}]")
    elif isinstance(form, Mapping):
        for name, inner in form.items():
            known = name.removesuffix("?")
            if known in value:
                _check(value[known], inner, f"{place}.{known}")
            elif known == name:
                raise ValueError(f"`{place}` has no {known!r}")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _or_none(form: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or form(value)


def _has_numbers(value: Any) -> bool:
    """Return whether every number in nested objects and lists is one that becomes a float."""
    if isinstance(value, dict | list):
        return all(map(_has_numbers, value.values() if isinstance(value, dict) else value))
    return type(value) is not int or is_number(value)


def _are_scores(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and all(_or_none(is_number)(value.get(name)) for name in ("rmse", "log_loss"))
    )


def _are_metrics(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _has_numbers(value)
        and all(_are_scores(value.get(part)) for part in ("training", "validation"))
    )


# A number that is not finite has become None.
_TRIAL: Form = {
    "number": _is_count,
    "learner": _is_text,
    "state": _is_text,
    "scores": (_or_none(is_number),),
    "seconds": is_number,
    "parameters": _is_object,
    "reason?": _is_text,
}
_ENTRY: Form = {
    "learner": _is_text,
    "trial": _is_count,
    "trials": _is_count,
    **dict.fromkeys(("mean", "low", "high"), _or_none(is_number)),
}
_FACTS: Form = {
    "version?": _or_none(_is_count),
    **dict.fromkeys(("digest?", "algorithm?", "summary?", "learner?"), _or_none(_is_text)),
    "data?": {
        **dict.fromkeys(("source?", "sha256?"), _or_none(_is_text)),
        "rows?": _or_none(_is_count),
    },
    "hyperparameters?": _is_object,
    "metrics?": _are_metrics,
    "search?": {
        **dict.fromkeys(("learner?", "metric?"), _is_text),
        "n_trials?": _is_count,
        "trials?": (_TRIAL,),
        "leaderboard?": (_ENTRY,),
    },
}
