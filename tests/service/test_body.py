"""Owns what every protocol does with a body first: content codings, limits, depth, and numbers that are not finite."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import BodyError
from app.web.body import parse_json, read
from tests.support.body import CODINGS, ROW, answer, bomb, every_coding, every_protocol, plain_body, post
from tests.support.service import ANSWER, HOUSE, PROTOCOLS, everywhere_client, refused, strict_json


@every_protocol
@pytest.mark.parametrize("coding", [*CODINGS, "identity"])
def test_compressed_body(everywhere: FlaskClient, protocol: str, coding: str) -> None:
    """A body in gzip, deflate or identity gets the same predictions as the plain one."""
    body = CODINGS.get(coding, bytes)(plain_body(protocol))

    assert answer(post(everywhere, protocol, body, coding), protocol) == [ANSWER]


@pytest.mark.parametrize("coding", ["GZIP", "Deflate", "Identity"])
def test_name_of_a_coding_in_any_case(everywhere: FlaskClient, coding: str) -> None:
    """The names of content codings are case-insensitive (RFC 9110, section 8.4.1)."""
    body = CODINGS.get(coding.lower(), bytes)(plain_body("V2"))

    assert answer(post(everywhere, "V2", body, coding), "V2") == [ANSWER]


@every_coding
@pytest.mark.parametrize("path", ["/predict", "/invocations"])
def test_compressed_csv(everywhere: FlaskClient, path: str, coding: str) -> None:
    """CSV in gzip or deflate gets the same predictions as plain CSV."""
    body = CODINGS[coding](f"{','.join(HOUSE)}\n{','.join(map(str, ROW))}\n".encode())
    reply = everywhere.post(path, data=body, headers={"Content-Type": "text/csv", "Content-Encoding": coding})

    assert [value for value in strict_json(reply).values() if isinstance(value, list)] == [[ANSWER]]


def broken(plain: bytes, coding: str) -> dict[str, bytes]:
    """Return bodies that are not one complete stream of a coding, by what is wrong with them."""
    whole = CODINGS[coding](plain)
    other = CODINGS["deflate" if coding == "gzip" else "gzip"](plain)
    return {
        "nothing": b"",
        "plain": plain,
        "garbage": b"\x00\xff" * 50,
        "the other coding": other,
        "deflate without zlib's frame": whole[2:-4] if coding == "deflate" else whole[10:-8],
        "half": whole[: len(whole) // 2],
        "all but the last byte": whole[:-1],
        "no checksum": whole[:-4],
        "another checksum": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
        if coding == "gzip"
        else whole[:-1] + b"\0",
        "a byte too many": whole + b"\0",
        "two of them": whole + whole if coding == "deflate" else whole + CODINGS["deflate"](plain),
        "a member and half another": whole + whole[: len(whole) // 2],
        "one in the other": CODINGS[coding](whole),
    }


@every_protocol
@every_coding
@pytest.mark.parametrize("case", broken(b"x", "gzip"))
def test_broken_coding(everywhere: FlaskClient, protocol: str, coding: str, case: str) -> None:
    """A body that is not one complete stream of its coding is 400; no part of it is answered."""
    body = broken(plain_body(protocol), coding)[case]
    message = refused(post(everywhere, protocol, body, coding), 400, protocol)

    assert message.startswith("the body is not ")
    assert coding in message or case == "one in the other"


@every_protocol
def test_gzip_of_several_members(everywhere: FlaskClient, protocol: str) -> None:
    """A body of several gzip members, as bgzip and `cat a.gz b.gz` write it, is read whole (RFC 1952)."""
    plain = plain_body(protocol)
    members = [gzip.compress(plain[start : start + 40]) for start in range(0, len(plain), 40)]

    assert answer(post(everywhere, protocol, b"".join(members), "gzip"), protocol) == [ANSWER]
    assert answer(post(everywhere, protocol, gzip.compress(b"") + b"".join(members), "X-GZip"), protocol) == [ANSWER]


def test_limits_of_gzip_members(store: Path) -> None:
    """The body limit applies to all members together, and there may be a thousand members."""
    plain = plain_body("V2", [ROW] * 50)
    client = everywhere_client(store, lambda lines: None, max_body_bytes=len(plain))
    halves = gzip.compress(plain[:100]) + gzip.compress(plain[100:])
    empty = gzip.compress(b"")

    assert answer(post(client, "V2", halves, "gzip"), "V2") == [ANSWER] * 50
    assert "longer than" in refused(post(client, "V2", halves + gzip.compress(b" "), "gzip"), 413)
    roomy = everywhere_client(store, lambda lines: None)
    assert answer(post(roomy, "V2", gzip.compress(plain) + empty * 999, "gzip"), "V2") == [ANSWER] * 50
    message = refused(post(roomy, "V2", gzip.compress(plain) + empty * 1_000, "gzip"), 400)
    assert message == "the gzip body has more than 1000 members; compress it as one"


@given(pieces=st.lists(st.binary(max_size=200_000), min_size=1, max_size=4), level=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_members_agree_with_another_reader(pieces: list[bytes], level: int) -> None:
    """Members of any length are decompressed as by Python's gzip module."""
    sent = b"".join(gzip.compress(piece, level) for piece in pieces)
    environ = {"CONTENT_LENGTH": str(len(sent)), "HTTP_CONTENT_ENCODING": "gzip", "wsgi.input": io.BytesIO(sent)}

    assert read(environ, max_bytes=2**20) == gzip.decompress(sent)


@every_protocol
def test_byte_order_mark(everywhere: FlaskClient, protocol: str) -> None:
    """A byte order mark before JSON is skipped (RFC 8259, section 8.1); a second one is not JSON."""
    mark = "\ufeff".encode()

    assert answer(post(everywhere, protocol, mark + plain_body(protocol)), protocol) == [ANSWER]
    assert "not JSON" in refused(post(everywhere, protocol, mark * 2 + plain_body(protocol)), 400, protocol)


@every_protocol
def test_charset_that_is_a_subset_of_utf_8(everywhere: FlaskClient, protocol: str) -> None:
    """US-ASCII is UTF-8 too."""
    for charset in ("us-ascii", "US-ASCII", '"ascii"', "utf-8"):
        headers = {"Content-Type": f"application/json; charset={charset}"}
        reply = everywhere.post(PROTOCOLS[protocol].path, data=plain_body(protocol), headers=headers)

        assert answer(reply, protocol) == [ANSWER]


def test_repeated_key(everywhere: FlaskClient) -> None:
    """If an object repeats a key, the last value counts."""
    twice = json.dumps(HOUSE).replace("{", '{"RM": 1.5, ', 1)

    for path, form in [("/predict", "%s"), ("/predict", "[%s]"), ("/invocations", '{"instances": [%s]}')]:
        reply = strict_json(everywhere.post(path, data=form % twice, content_type="application/json"))

        assert reply.get("prediction", reply.get("predictions")) == [ANSWER]


@every_protocol
@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "gzip;q=1", "\xff"])
def test_unknown_coding(everywhere: FlaskClient, protocol: str, coding: str) -> None:
    """An unsupported coding is 415, and the message lists the supported ones."""
    message = refused(post(everywhere, protocol, gzip.compress(plain_body(protocol)), coding), 415, protocol)

    assert message == f"the Content-Encoding is {coding}; send gzip, deflate or none"


@every_protocol
@every_coding
def test_expansion(everywhere: FlaskClient, protocol: str, coding: str) -> None:
    """A body that expands a hundredfold, and beyond any table of the model, is 413, and the message tells so."""
    message = refused(post(everywhere, protocol, bomb(coding, 3), coding), 413, protocol)

    assert re.fullmatch(
        r"the decompressed body is longer than \d+ bytes, 100 times its compressed length, and than any table of "
        "the model; send it uncompressed",
        message,
    )


@every_protocol
@every_coding
@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("row", [ROW, [0] * 6, [1 / 3] * 6])
def test_one_row_again_and_again(
    everywhere: FlaskClient, protocol: str, coding: str, indent: int | None, row: list[float]
) -> None:
    """The largest allowed number of rows is answered in compressed form, even if all rows are the same."""
    body = json.dumps(PROTOCOLS[protocol].write([row] * 10_000), indent=indent).encode()
    sent = CODINGS[coding](body)
    reply = post(everywhere, protocol, sent, coding)

    assert len(body) > 100 * len(sent)
    assert len(answer(reply, protocol)) == 10_000


def test_one_record_again_and_again(everywhere: FlaskClient) -> None:
    """The longest form of the largest request, indented records, is answered in compressed form."""
    records = [dict.fromkeys(HOUSE, -2.2250738585072014e-308)] * 10_000
    sent = gzip.compress(json.dumps(records, indent=4).encode())

    assert len(answer(post(everywhere, "native", sent, "gzip"), "native")) == 10_000


@every_protocol
@pytest.mark.parametrize("coding", [None, *CODINGS])
def test_limit_is_exact(store: Path, protocol: str, coding: str | None) -> None:
    """A body as long as the limit is answered, and one byte more is 413, for plain and for decompressed bodies."""
    plain = plain_body(protocol, [ROW] * 50)
    client = everywhere_client(store, lambda lines: None, max_body_bytes=len(plain))
    compress = CODINGS.get(coding or "", bytes)

    assert answer(post(client, protocol, compress(plain), coding), protocol) == [ANSWER] * 50
    message = refused(post(client, protocol, compress(plain + b" "), coding), 413, protocol)
    assert f"body is longer than {len(plain)} bytes" in message


@every_protocol
@every_coding
def test_limit_of_sent_bytes(store: Path, protocol: str, coding: str) -> None:
    """The limit applies to the bytes as sent, even if they decompress to fewer."""
    plain = plain_body(protocol)
    stored = gzip.compress(plain, 0) if coding == "gzip" else zlib.compress(plain, 0)
    just, short = (
        everywhere_client(store, lambda lines: None, max_body_bytes=limit) for limit in (len(stored), len(stored) - 1)
    )

    assert len(stored) > len(plain)
    assert answer(post(just, protocol, stored, coding), protocol) == [ANSWER]
    assert (
        refused(post(short, protocol, stored, coding), 413, protocol)
        == f"the body is longer than {len(stored) - 1} bytes; send a shorter one"
    )


def test_bytes_after_the_limit_of_a_stream(store: Path) -> None:
    """Bytes after a stream of exactly the allowed length are still found."""
    plain = plain_body("V2", [ROW] * 50)
    client = everywhere_client(store, lambda lines: None, max_body_bytes=len(plain))

    for coding, compress in CODINGS.items():
        refused(post(client, "V2", compress(plain) + b"x", coding), 400)
        refused(post(client, "V2", compress(plain)[:-1], coding), 400)


def depth(value: Any) -> int:
    """Return how deep lists and objects are nested."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def nested(levels: int, inner: Any = 1, *, objects: bool = False) -> Any:
    """Return a value inside so many lists or objects."""
    for _ in range(levels):
        inner = {"[": inner} if objects else [inner]
    return inner


# Text in which brackets and quotes could be misread.
texts = st.text(alphabet='[]{}"\\/,:ué\U0001f600 \n\x00', max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(
    value=values,
    levels=st.integers(0, 3) | st.integers(92, 103),
    objects=st.booleans(),
    around=st.lists(values, max_size=2),
    indent=st.sampled_from([None, 0, 1]),
    ascii_only=st.booleans(),
)
@example(value='\\"[', levels=99, objects=False, around=["["], indent=None, ascii_only=True)
@example(value="\\\\", levels=99, objects=True, around=['"'], indent=None, ascii_only=False)
def test_depth(value: Any, levels: int, objects: bool, around: list[Any], indent: int | None, ascii_only: bool) -> None:
    """JSON of 100 levels is read and of 101 is refused, whatever its strings and keys contain."""
    document = [*around, nested(levels, value, objects=objects), "]" * 200, "[" * 200]
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()

    if depth(document) <= 100:
        assert parse_json(body) == document
    else:
        with pytest.raises(BodyError, match="nested more than 100 levels deep"):
            parse_json(body)


@every_protocol
@pytest.mark.parametrize("objects", [False, True], ids=["lists", "objects"])
def test_depth_of_a_request(everywhere: FlaskClient, protocol: str, objects: bool) -> None:
    """A nested cell of 100 levels in all is refused as a cell, one of 101 for its depth."""
    around = depth(PROTOCOLS[protocol].write([ROW]))
    just, deeper = (
        plain_body(protocol, [[nested(levels - around, objects=objects), *ROW[1:]]]) for levels in (100, 101)
    )

    status = PROTOCOLS[protocol].unfit
    assert "column 'CHAS': not a number" in refused(post(everywhere, protocol, just), status, protocol)
    assert (
        refused(post(everywhere, protocol, deeper), 400, protocol)
        == "the JSON body is nested more than 100 levels deep"
    )


@every_protocol
@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite(everywhere: FlaskClient, protocol: str, token: str) -> None:
    """NaN, infinities and numbers beyond float64 are reported by row and feature, though they are not strict JSON."""
    body = plain_body(protocol, [ROW, [0, "TOKEN", *ROW[2:]]]).replace(b'"TOKEN"', token.encode())
    message = refused(post(everywhere, protocol, body), PROTOCOLS[protocol].unfit, protocol)

    assert message == "1 problem: row 1, column 'RM': not finite"


@every_protocol
@pytest.mark.parametrize("digits", [309, 400, 4300, 4301, 100_000])
def test_whole_number_beyond_float64(everywhere: FlaskClient, protocol: str, digits: int) -> None:
    """A whole number that float64 cannot hold is refused, however many digits it has."""
    body = plain_body(protocol, [[0, "TOKEN", *ROW[2:]]]).replace(b'"TOKEN"', b"9" * digits)
    reply = post(everywhere, protocol, body)

    assert "RM" in refused(reply, reply.status_code, protocol) or digits > 4300
    assert reply.status_code in (400, PROTOCOLS[protocol].unfit)


@every_protocol
@pytest.mark.parametrize("where", ["key", "cell", "beside NaN"])
def test_half_a_surrogate_pair(everywhere: FlaskClient, protocol: str, where: str) -> None:
    """Half a surrogate pair is not text: it is 400 at any place, with either parser."""
    document = PROTOCOLS[protocol].write([ROW if where == "key" else [float("nan"), *ROW[1:]]])
    document = document | {"\ud800": 1} if where != "cell" else PROTOCOLS[protocol].write([["\udc00", *ROW[1:]]])

    refused(post(everywhere, protocol, json.dumps(document).encode()), 400, protocol)


@pytest.mark.parametrize("protocol", ["V2", "V1", "Vertex AI", "MLflow"])
def test_whole_surrogate_pair(everywhere: FlaskClient, protocol: str) -> None:
    """A whole pair is one character, also if JSON escapes it as two."""
    body = plain_body(protocol)[:-1] + b', "\\ud83d\\ude00": "\\ud83d\\ude00"}'

    assert answer(post(everywhere, protocol, body), protocol) == [ANSWER]


@given(body=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_parser_agrees_with_another(body: bytes) -> None:
    """Every body has the value that Python's own parser gives it, or is a `BodyError`."""
    try:
        found = parse_json(body)
    except BodyError:
        return
    expected = json.loads(body)

    assert repr(found) == repr(expected) or found == expected


@every_protocol
def test_number_of_containers(everywhere: FlaskClient, protocol: str) -> None:
    """More than 200,000 lists and objects are refused before they are made: they compress to next to nothing."""
    for count, refused_for_it in ((200_000, False), (200_001, True)):
        body = json.dumps({"parameters": [[]] * (count - 2)}).encode()
        status = 422 if protocol == "native" and not refused_for_it else 400
        message = refused(post(everywhere, protocol, body), status, protocol)

        assert ("more than 200000 lists and objects" in message) == refused_for_it
