"""Read the fields of Protocol Buffers messages, of which only those that are listed may occur."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INT, BYTES, FLOAT = 0, 2, 5
"""Wire types: variable-length integers, strings and messages, numbers of four bytes."""
Message = Mapping[int, tuple[str, int, int]]
"""The allowed fields of a message: by number the name, the wire type and the largest count."""


def parse(content: memoryview, message: Message, kind: str) -> dict[str, list[Any]]:
    """Return the fields of a message by name: lists of integers, or of the bytes of anything else."""
    found: dict[str, list[Any]] = {name: [] for name, _, _ in message.values()}
    position, end = 0, len(content)
    while position < end:
        tag, position = _varint(content, position)
        name, wire, max_count = message.get(tag >> 3, ("", -1, 0))
        if wire != tag & 7:
            raise ValueError(f"its {kind} has the field {tag >> 3}, which is not served")
        value: Any
        value, position = (4, position) if wire == FLOAT else _varint(content, position)
        if wire != INT:
            if value < 0 or position + value > end:
                raise ValueError(f"its {kind} ends in the middle of a field")
            start, position = position, position + value
            value = content[start:position]
        if len(found[name]) == max_count:
            raise ValueError(f"its {kind} has more than {max_count} of the field {name!r}")
        found[name].append(value)
    return found


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the signed 64-bit varint at a position, and the position behind it."""
    number = shift = 0
    try:
        while (byte := content[position]) >= 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            position += 1
    except IndexError:
        shift = 70
    if shift >= 70:
        raise ValueError("it ends in the middle of a number, or is not an ONNX graph")
    number = (number | byte << shift) & (2**64 - 1)
    return (number if number < 2**63 else number - 2**64), position + 1


def varints(content: memoryview, max_count: int) -> list[int]:
    """Return the integers of a packed field."""
    numbers, position = [], 0
    while position < len(content):
        number, position = _varint(content, position)
        numbers.append(number)
        if len(numbers) > max_count:
            raise ValueError(f"it has a list of more than {max_count} numbers")
    return numbers


def single(values: list[Any], kind: str) -> Any:
    """Return the one value of a field."""
    if len(values) != 1:
        raise ValueError(f"it has no {kind}")
    return values[0]


def text(values: list[Any]) -> str:
    """Return a string, empty if the field is absent."""
    return bytes(values[0]).decode() if values else ""
