"""Byte streams for an HTTP/1 server: written by hand, and mutations of valid ones. Knows nothing about a server.

A case is a tuple of pieces that are sent one after the other. At an empty piece the sender waits for a reply.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

BODY = b"abcd"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 4"
LAST = b"0\r\n\r\n"
ONE_CHUNK = b"4\r\nabcd\r\n" + LAST
WAIT = b""

# gunicorn's limits; streams here come close to them.
LINE_LIMIT, FIELDS_LIMIT, FIELD_LIMIT = 4094, 100, 8190


@dataclass(frozen=True, slots=True)
class Case:
    """A byte stream, in the pieces in which a client sends it."""

    name: str
    pieces: tuple[bytes, ...]

    @property
    def stream(self) -> bytes:
        """The whole stream."""
        return b"".join(self.pieces)


def request(line: bytes, *fields: bytes, body: bytes = b"", host: bytes = b"Host: h\r\n") -> bytes:
    """Return a request with this line, and these fields after its Host."""
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def get(*fields: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a GET."""
    return request(b"GET " + target + b" " + version, *fields)


def post(*fields: bytes, body: bytes = BODY, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a POST; the fields must frame its body."""
    return request(b"POST " + target + b" " + version, *fields, body=body)


def sized(body: bytes, *fields: bytes, target: bytes = b"/") -> bytes:
    """Return a POST with a Content-Length."""
    return post(b"Content-Length: %d" % len(body), *fields, body=body, target=target)


def chunks(body: bytes, size: int) -> bytes:
    """Return a chunked body, with chunks of this size."""
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + LAST


def _lengths() -> Iterator[bytes]:
    """Content-Length in every form that servers interpret differently."""
    values = [b"", b" ", b"0", b"00", b"04", b"0000000000000000000000004", b"3", b"5", b"400", b"+4", b"-4", b"-0"]
    values += [b"4 ", b"\t4\t", b"4 4", b"4,4", b"4, 4", b"4,5", b"4;", b"4.0", b"0x4", b"4e0", b"4_0", b"1_0", b"abcd"]
    values += [b'"4"', b"\xb2", b"\xb9", b"\xbd", b"4\x00", b"\x0b4", b"4\x0c", b"\xa04", b"4\xa0", b"4\r", b"\r4"]
    values += [b"4\n", b"4\x85", b"18446744073709551616", b"18446744073709551620", b"4294967300", b"9" * 30]
    values += [b"9" * 5000, b"4\r\n ", b"4#", b"\xd9\xa4", b"\xef\xbc\x94", b"4/4", b"4\\", b"4 \t "]
    values += [b"-18446744073709551612", b"1e1", b"0b100", b"0o4"]
    for value in values:
        yield post(b"Content-Length: " + value)
        yield post(b"Content-Length:" + value, target=b"/unread")
    names = [b"content-length", b"CONTENT-LENGTH", b"Content_Length", b"Content-Length ", b" Content-Length"]
    names += [b"Content-Length\t", b"Content-Length\x00", b"Content-Lengt\xe8", b"Content-Length\x0b"]
    names += [b"X-Content-Length", b"Content Length", b"Content-Length\r", b"\x00Content-Length", b"Content--Length"]
    names += [b"Content-\r\nLength", b"Content-Length\xa0"]
    for name in names:
        yield post(name + b": 4")
        yield post(LENGTH, name + b": 5")
    for first, second in [
        (b"4", b"4"),
        (b"4", b"5"),
        (b"5", b"4"),
        (b"4", b""),
        (b"", b"4"),
        (b"0", b"4"),
        (b"4", b"0"),
    ]:
        yield post(b"Content-Length: " + first, b"Content-Length: " + second)
        yield post(b"content-length: " + first, b"X: y", b"CONTENT-LENGTH: " + second)
    for target in (b"/", b"/pool", b"/unread", b"/first", b"/line", b"/lines"):
        yield sized(b"", target=target)
        yield post(b"Content-Length: 3", target=target)
        yield post(b"Content-Length: 9", target=target)
        yield post(target=target)
        yield sized(b"ab\ncd\n\nefgh\r\ni", target=target)
        yield request(b"GET " + target + b" HTTP/1.1", LENGTH, body=BODY)
        yield request(b"HEAD " + target + b" HTTP/1.1", LENGTH, body=BODY)
        yield request(b"DELETE " + target + b" HTTP/1.1", LENGTH, body=BODY)
        yield post(LENGTH, target=target, version=b"HTTP/1.0")
        yield post(LENGTH, b"Connection: keep-alive", target=target, version=b"HTTP/1.0")


def _codings() -> Iterator[bytes]:
    """Transfer-Encoding, alone and beside Content-Length, plain and disguised."""
    values = [b"chunked", b"Chunked", b"CHUNKED", b"chunked ", b"\tchunked", b"\x0bchunked", b"chunked\x0b"]
    values += [b"xchunked", b"chunkedx", b"chunked,", b",chunked", b"chunked, chunked", b"chunked,chunked", b"identity"]
    values += [b"identity, chunked", b"chunked, identity", b"gzip, chunked", b"chunked, gzip", b"gzip"]
    values += [b"deflate,chunked", b"compress, chunked", b"", b'"chunked"', b"'chunked'", b"chunked;q=1"]
    values += [b"chunked; a=b", b"chunked\x00", b"chunk", b"cow", b"cow, chunked", b"chunked, cow", b"chunked\tx"]
    values += [b"\r\n chunked", b"\r\n\tchunked", b"chunked\r", b"\xa0chunked", b"chun\xe9ked", b"chu\x00nked"]
    values += [b"chunked\n", b"\nchunked", b"chunked\x0c", b"0", b"trailers", b"br, chunked", b"x-gzip, chunked"]
    values += [b", ,chunked", b"chunked , ", b" identity ", b"gzip,deflate,chunked", b"gzip, chunked, gzip, chunked"]
    for value in values:
        yield post(b"Transfer-Encoding: " + value, body=ONE_CHUNK)
        yield post(LENGTH, b"Transfer-Encoding: " + value, body=ONE_CHUNK)
        yield post(b"Transfer-Encoding:" + value, b"Content-Length: 14", body=ONE_CHUNK)
    names = [b"transfer-encoding", b"TRANSFER-ENCODING", b"Transfer_Encoding", b"Transfer-Encoding "]
    names += [b" Transfer-Encoding", b"Transfer-Encoding\t", b"Transfer-Encoding\x00", b"X: X\nTransfer-Encoding"]
    names += [b"X: X\rTransfer-Encoding", b"X: X\r\n Transfer-Encoding", b"X-Transfer-Encoding", b"Transfer Encoding"]
    names += [b"Transfer-Encoding\x0b", b"TE", b"\x00Transfer-Encoding", b"Transfer\xadEncoding"]
    names += [b"X: X\x00\r\nTransfer-Encoding", b"X\r\nTransfer-Encoding"]
    for name in names:
        yield post(name + b": chunked", body=ONE_CHUNK)
        yield post(LENGTH, name + b": chunked", body=ONE_CHUNK)
        yield post(name + b": chunked", b"Content-Length: 14", body=ONE_CHUNK)
    for first, second in [("chunked", "chunked"), ("chunked", "identity"), ("identity", "chunked"), ("chunked", "cow")]:
        yield post(*(b"Transfer-Encoding: " + value.encode() for value in (first, second)), body=ONE_CHUNK)
        yield post(*(b"Transfer-Encoding: " + value.encode() for value in (first, second)), LENGTH, body=ONE_CHUNK)
    for version in (b"HTTP/1.0", b"HTTP/1.2"):
        yield post(CHUNKED, body=ONE_CHUNK, version=version)
        yield post(CHUNKED, LENGTH, body=ONE_CHUNK, version=version)
        yield post(CHUNKED, b"Connection: keep-alive", body=ONE_CHUNK, version=version)
    yield post(b"Content-Length: 6", CHUNKED, body=LAST + b"G")
    yield post(CHUNKED, b"Content-Length: 3", body=b"8\r\nSMUGGLED\r\n" + LAST)
    yield request(b"GET / HTTP/1.1", CHUNKED, body=ONE_CHUNK)
    yield request(b"HEAD / HTTP/1.1", CHUNKED, body=ONE_CHUNK)
    yield sized(LAST + get(target=b"/smuggled"))
    yield request(b"GET / HTTP/1.1", LENGTH, body=get(target=b"/smuggled"))


def _chunk_bodies() -> Iterator[bytes]:
    """Chunked bodies: sizes, extensions, ends and trailers, right and wrong."""
    sizes = [b"", b" 4", b"4 ", b"+4", b"-4", b"0x4", b"4\t", b"4;", b"4;a", b"4;a=b", b"4 ; a", b"4\t;\ta = b"]
    sizes += [b'4;a="x"', b'4;a="x', b'4;a="\\""', b"4;\r", b"4;a\nb", b"4;a\rb", b"4\n", b"4\r", b"\n4", b"g", b"G"]
    sizes += [b"04", b"0" * 30 + b"4", b"F" * 17, b"7" * 16, b"8" * 16, b"f" * 9000, b"4;" + b"a" * 8185]
    sizes += [b"4;" + b"a" * 8188, b"4;" + b"a" * 9000, b"4_0", b"\xb24", b"4\x00", b"\x004", b"4 4", b"4,4"]
    sizes += [b"4;a=\x00", b"4;a;b=c;d", b"4;;", b"4; ", b"4;=", b"4;\xe9=x", b"0;4", b"4\x0b"]
    bodies = [size + b"\r\nabcd\r\n" + LAST for size in sizes]
    bodies += [b"4\r\nabcd" + LAST, b"4\r\nabcd\n" + LAST, b"4\r\nabcd\r" + LAST, b"4\r\nabcdX\r\n" + LAST]
    bodies += [b"4\r\nabcde\r\n" + LAST, b"3\r\nabcd\r\n" + LAST, b"5\r\nabcd\r\n" + LAST, b"4\r\nabcd\r\n"]
    bodies += [b"4\r\nabcd", b"4\r\nab", b"4\r\n", b"4", b"", b"4\nabcd\n0\n\n", b"4\r\nabcd\r\n0\r\n"]
    bodies += [b"4\r\nabcd\r\n0", b"4\r\nabcd\r\n0\r", b"\r\n4\r\nabcd\r\n" + LAST]
    bodies += [
        b"4\r\nabcd\r\n" + end
        for end in (b"00\r\n\r\n", b"000;a=b\r\n\r\n", b"-0\r\n\r\n", b"0\n\r\n", b"0\r\n\n", b"0 \r\n\r\n")
    ]
    bodies += [b"0\r\n\r\n", b"0\r\n\r\n\r\n", b"4\r\nabcd\r\n\r\n" + LAST, b"4\r\nabcd\r\n0\r\n\r\nrest"]
    bodies += [b"FFFFFFFF\r\nabcd", b"4\r\nabcd\r\n"]
    trailers = [b"X: y", b"X: y\r\nZ: w", b"Content-Length: 5", b"Host: z", b"Transfer-Encoding: chunked", b"X_y: z"]
    trailers += [b"bad", b"X : y", b" X: y", b"X: y\r\n z", b"X: a\x00", b"X: a\nY: b", b"X: a\rY: b", b": y"]
    trailers += [b"X: " + b"a" * 8200, b"Expect: 100-continue", b"Connection: close", b"X-Forwarded-Proto: https"]
    trailers += [b"Trailer: x", b"TE: x", b"Authorization: x", b"Expect: 200-ok", b"Content-Type: a\r\nContent-Type: b"]
    trailers += [b"\r\n".join(b"X-%d: y" % i for i in range(101)), b"\n", b"\r", b"X: y\n"]
    bodies += [b"4\r\nabcd\r\n0\r\n" + trailer + b"\r\n\r\n" for trailer in trailers]
    bodies += [chunks(b"abcd" * 250, 1), chunks(b"x" * 100_000, 65536), chunks(b"x" * 20_000, 7)]
    bodies += [chunks(b"x\n" * 5000, 1000)]
    for body in bodies:
        yield post(CHUNKED, body=body)
        yield post(CHUNKED, body=body, target=b"/unread")
    for target in (b"/first", b"/line", b"/lines", b"/pool", b"/pool/unread", b"/raise", b"/pieces", b"/first?2000"):
        yield post(CHUNKED, body=ONE_CHUNK, target=target)
        yield post(CHUNKED, body=b"4\r\nabcdX" + LAST, target=target)
        yield post(CHUNKED, body=chunks(b"ab\ncdef" * 10, 9), target=target)
    yield post(CHUNKED, body=chunks(b"x" * 200_000, 50_000), target=b"/unread")


def _lines() -> Iterator[bytes]:
    """Request lines: methods, targets, versions and what stands between and before them."""
    methods = [b"get", b"Get", b"GEt", b"G", b"GE", b"A" * 20, b"A" * 21, b"GET#", b"G@T", b"G,T", b"", b"\tGET"]
    methods += [b"GE\x00T", b"G\xc9T", b"M-SEARCH", b"CONNECT", b"OPTIONS", b"TRACE", b"HEAD", b"PUT", b"PATCH"]
    methods += [b"DELETE", b"PROPFIND", b"GET:", b"G-T", b"123", b"!$%&'*+-.^_`|~"[:14], b"GET\x0b", b"GET\xa0"]
    methods += [b"(GET)", b"GET\r", b"G\nET", b"'", b"HEAD ", b" GET"]
    for method in methods:
        yield request(method + b" / HTTP/1.1")
        yield request(method + b" / HTTP/1.1", LENGTH, body=BODY)
    targets = [b"//", b"//a//b", b"///", b"/a/../b", b"/./", b"/%2e%2e/", b"/%00", b"/%0d%0aX:y", b"/%", b"/%zz"]
    targets += [b"/%4", b"/%C3%A9", b"/%ff", b"/a%2Fb", b"/a?b?c", b"/?", b"/??", b"/a?%20%zz", b"/a#b", b"/a#b?c"]
    targets += [b"/?a#b", b"/#", b"/a;b=c", b"/a;b?c;d", b"/a&b=c", b"http://h/", b"http://h", b"HTTP://H/x?y"]
    targets += [b"http://h:99999/", b"http://h:x/", b"http://[::1]/a", b"http://[::1", b"http://]", b"https://h/"]
    targets += [b"http://other/path?q", b"ftp://h/x", b"://", b"://h/", b"a://", b"http:///a", b"http://u:p@h/a"]
    targets += [b"http:/a", b"http:a", b"h:80", b"h", b"?a", b"#", b"", b"/\xff", b"/\x00", b"/\x7f", b"/\x80"]
    targets += [b"/\xc3\xa9", b"/a\tb", b"/a\x0bb", b"/a b", b"/\x01", b'/<>"{}|\\^`', b"*", b"/*", b"**", b"/a:b"]
    targets += [b"/http://x/", b"\\", b"/\\..\\", b"//[", b"//[::1", b"//[x]/y", b"/[", b"http://h/[", b"/@", b"/a=b"]
    targets += [b"/+", b"/%2B+", b"/pool?pool", b"/?" + b"%41" * 500, b"/" + b"../" * 20, b"/a\rb", b"/a\nb"]
    targets += [b"http://h?q", b"http://h#f", b"http://\xe9/", b"http://h\x00/", b"//h/a?b#c", b"//?a", b"//#a"]
    targets += [b"/a//", b"javascript://x", b"//u@h:1/x", b"/%E2%82", b"/%ED%A0%80"]
    for target in targets:
        yield get(target=target)
    for target in (b"*", b"http://h/x", b"h:80", b"/", b"//", b"x"):
        yield request(b"OPTIONS " + target + b" HTTP/1.1")
        yield request(b"CONNECT " + target + b" HTTP/1.1")
        yield request(b"HEAD " + target + b" HTTP/1.1")
        yield request(b"GET " + target + b" HTTP/1.0", host=b"")
    versions = [b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/1"]
    versions += [b"HTTP/2", b"HTTP/11", b"HTTP/1.10", b"HTTP/1.1 ", b"HTTP/ 1.1", b"http/1.1", b"Http/1.1", b"HTTP/1,1"]
    versions += [b"HTTP/+1.1", b"HTTPS/1.1", b"ICY/1.1", b"HTTP/1.1x", b"", b"HTTP/\xb9.1", b"HTTP/1.1\t"]
    versions += [b"HTTP/1.1\x00", b"HTTP/1.1 x", b"HTTP/1.1\r", b"HTTP/01.1", b"HTTP/1.\xd9\xa1", b"HTTP/1.1\n"]
    versions += [b"HTTP/1.1\nX: y", b" HTTP/1.1", b"\tHTTP/1.1", b"HTTP\\1.1", b"HTTP/1.-1", b"HTTP/a.b", b"HTTP/.1"]
    versions += [b"1.1"]
    for version in versions:
        yield get(version=version)
        yield post(LENGTH, version=version)
    for version in (b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.9"):
        for field in (b"Connection: keep-alive", b"Connection: close", b"Expect: 100-continue", b"X: y"):
            yield get(field, version=version)
            yield post(LENGTH, field, version=version)
            yield request(b"HEAD / " + version, field, host=b"")
            yield get(field, version=version, target=b"/pieces")
    yield from (
        b"GET /\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / \r\n\r\n",
        b"GET /",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\n",
        b"GET\t/\tHTTP/1.1\r\n\r\n",
    )
    yield from (
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\n\n",
        b"GET / HTTP/1.1\r\r\n\r\n",
        b"GET / HTTP/1.1\r\n\n",
    )
    starts = [b"\r\n", b"\r\n\r\n", b"\r\n" * 9, b"\n", b"\n\n", b"\r", b"\r\r", b" ", b" \r\n", b"\t\r\n", b"\x00"]
    starts += [b"\xef\xbb\xbf", b"\r\n\n", b"\n\r\n"]
    for start in [
        *starts,
        b"X\r\n",
        b"\r\n ",
        b"\x1b[A",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c",
    ]:
        yield start + get()
        yield sized(BODY) + start + get()
        yield post(CHUNKED, body=ONE_CHUNK) + start + get()


def _fields() -> Iterator[bytes]:
    """Fields: names, values, and ends of lines and of the head; and fields with a meaning for servers."""
    names = [b"X", b"x", b"X_Y", b"_", b"X-Y", b"X ", b" X", b"\tX", b"X\t", b"X Y", b"", b"X\x00", b"X\xe9", b"\xdf"]
    names += [b"X\x7f", b"(X)", b"X/Y", b"X@", b"!#$%&'*+-.^`|~", b"X\r", b"X\n", b"\rX", b"\nX", b"X\x0b", b"X;"]
    names += [b"X=", b"{X}", b"X\\", b'"X"', b"\xc5\xbf", b"-", b"1"]
    for name in names:
        yield get(name + b": y")
        yield request(b"GET / HTTP/1.1", b"A: b", host=name + b": y\r\n")
        yield post(LENGTH, name + b": y")
    values = [b"", b" ", b"\t", b" \t y \t ", b"a\tb", b"a\x00b", b"a\rb", b"a\nb", b"a\x0bb", b"a\x7fb", b"a\x01b"]
    values += [b"a\x1fb", b"\xe9", b"\xc3\xa9", b"\x85", b"\xa0y\xa0", b"\xff", b"a" + b" " * 99, b"a\r", b"a\n"]
    values += [b"\ra", b"\na", b"a\r\n b", b"a\r\n\tb", b"a\r\n ", b"a\r\n \r\n b", b"a\r\nb", b"a\r\n: b", b"a:b"]
    values += [b":", b"a\r\r\nB: c", b"a\n\rB: c", b"a\n B: c", b"a\x0c", b"\x0ca", b"=?utf-8?q?x?=", b"a\x1c"]
    values += [b"\x1ca"]
    for value in values:
        yield get(b"X: " + value)
        yield get(b"X:" + value, b"Y: z")
        yield post(b"Content-Type: " + value, LENGTH)
    for end in (
        b"\n\n",
        b"\r\n\n",
        b"\n\r\n",
        b"\r\r\n",
        b"\r\n\r",
        b"\r\n \r\n\r\n",
        b"\r\n\x00\r\n",
        b"\r\r",
        b"\n",
        b"\r",
        b"\n\r\n\r\n",
        b"\r\n\r\r\n",
    ):
        yield b"GET / HTTP/1.1\r\nHost: h" + end
        yield b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4" + end + BODY
        yield b"GET / HTTP/1.1" + end + b"Host: h\r\n\r\n"
    hosts = [b"", b"Host: h\r\nHost: h\r\n", b"Host: h\r\nHost: i\r\n", b"Host:\r\n", b"Host: a b\r\n"]
    hosts += [b"Host: a,b\r\n", b"Host: a/b\r\n", b"Host: \xff\r\n", b"Host: h:80\r\n", b"Host: h:x\r\n"]
    hosts += [b"Host: u@h\r\n", b"HOST: h\r\n", b"host: h\r\nHOST: h\r\n", b"Host : h\r\n", b"Ho\x00st: h\r\n"]
    hosts += [b"Host\r\n", b"X: y\r\nHost: h\r\n", b" Host: h\r\n", b"Host: h\r\n Host: i\r\n", b"Host: [::1]:80\r\n"]
    hosts += [b"Host: \x00\r\n", b"Host_: h\r\n", b"X-Host: h\r\n"]
    for host in hosts:
        yield request(b"GET / HTTP/1.1", host=host)
        yield request(b"GET / HTTP/1.0", host=host)
        yield request(b"GET http://k/ HTTP/1.1", host=host)
    known = [b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http", b"X-Forwarded-Proto: HTTPS"]
    known += [b"x-forwarded-proto: https", b"X-Forwarded-Ssl: on", b"X-Forwarded-Ssl: off"]
    known += [b"X-Forwarded-Protocol: ssl", b"X-Forwarded-Protocol: https", b"X-Forwarded-Proto: https, http"]
    known += [b"X-Forwarded-Proto:", b"X_Forwarded_Proto: https"]
    known += [b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https"]
    known += [b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http"]
    known += [b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on", b"X-Forwarded-Proto: http\r\nX-Forwarded-Ssl: on"]
    known += [b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-For: 1\r\nX-Forwarded-For: 2"]
    known += [b"X-Forwarded-For: 1\r\nX_Forwarded_For: 2", b"Forwarded: for=1;proto=https", b"X-Forwarded-Host: z"]
    known += [b"SCRIPT_NAME: /", b"SCRIPT_NAME: /a", b"Script-Name: /a", b"script_name: /", b"SCRIPT_NAME:"]
    known += [b"SCRIPT_NAME: /\r\nSCRIPT_NAME: /", b"PATH_INFO: /z", b"Path-Info: /z", b"REMOTE_USER: x"]
    known += [b"REMOTE_ADDR: 9.9.9.9", b"Remote-Addr: 9.9.9.9", b"HTTP_HOST: z", b"SERVER_NAME: z", b"wsgi.input: z"]
    known += [b"wsgi.url_scheme: z", b"Request-Method: z", b"Proxy: http://evil", b"Cookie: a\r\nCookie: b"]
    known += [b"Accept: a\r\nX: y\r\nAccept: b", b"X-Request-Id: a b", b"Content-Type: a"]
    known += [b"Content-Type: a\r\nContent-Type: a", b"Content-Type: a\r\nContent-Type: b", b"CONTENT_TYPE: z"]
    known += [b"Content-Encoding: gzip"]
    known += [
        b"Connection: " + value
        for value in (
            b"close",
            b"Close",
            b"CLOSE ",
            b"keep-alive",
            b"Keep-Alive",
            b"close, keep-alive",
            b"keep-alive, close",
            b"",
        )
    ]
    known += [
        b"Connection: " + value
        for value in (
            b"Host",
            b"transfer-encoding",
            b"closed",
            b"close;",
            b"close,",
            b"upgrade",
            b"Upgrade, HTTP2-Settings",
            b"\xe9",
        )
    ]
    known += [b"Connection: close\r\nConnection: keep-alive", b"Connection: keep-alive\r\nConnection: close"]
    known += [b"Connection: x\r\nConnection: close", b"Connection: Upgrade\r\nUpgrade: websocket"]
    known += [b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"]
    known += [b"Upgrade: h2c", b"Upgrade: websocket\r\nConnection: close", b"Proxy-Connection: close"]
    known += [b"Proxy-Connection: keep-alive", b"Keep-Alive: timeout=5", b"TE: trailers", b"TE: chunked", b"Trailer: X"]
    known += [b"Via: 1.0 p", b"Max-Forwards: 0", b"Authorization: Basic YTpi", b"Range: bytes=0-1"]
    known += [b"Connection : close", b"If-None-Match: *", b"HTTP2-Settings: x", b"X-HTTP-Method-Override: PUT"]
    known += [b"Referer: r\r\nUser-Agent: u", b"Early-Data: 1", b"Connection_: close"]
    for field in known:
        yield get(field)
        yield get(field, version=b"HTTP/1.0")
        yield sized(BODY, field)
        yield get(field, target=b"/pool/pieces")


def _expectations() -> Iterator[bytes]:
    """Expect: what is understood, what is not, and where it stands."""
    values = [b"100-continue", b"100-Continue", b"100-CONTINUE ", b"100-continue, x", b"", b"200-ok"]
    values += [b"100-continue;q=1", b"x=y", b"100", b"100-continue\x00", b"\xe9", b"\t100-continue\t"]
    values += [b"100-continue\r\nExpect: 100-continue", b"100-continue\r\nExpect: x", b"100-continue\r\nX_y: z"]
    for value in values:
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            yield get(b"Expect: " + value, version=version)
            yield post(b"Expect: " + value, LENGTH, version=version)
        yield post(b"Expect: " + value, CHUNKED, body=ONE_CHUNK)
        yield post(b"Expect: " + value, LENGTH, target=b"/unread")
        yield post(b"Expect: " + value, b"Content-Length: 0", body=b"")
        yield post(b"Expect: " + value, b"Content-Length: x")
        yield post(b"Expect: " + value, LENGTH, b"Connection: close", target=b"/pool/unread")
        yield post(b"Expect: " + value, b"Content-Length: 9", target=b"/raise")


def _limits() -> Iterator[bytes]:
    """Heads around the limits on lines, fields and their number."""
    for size in (
        *range(LINE_LIMIT - 3, LINE_LIMIT + 4),
        8000,
        *range(FIELD_LIMIT - 3, FIELD_LIMIT + 4),
        9000,
        20_000,
        100_000,
    ):
        fixed = len(b"GET / HTTP/1.1")
        yield get(target=b"/" + b"a" * (size - fixed))
        yield get(target=b"/?" + b"a" * (size - fixed - 1))
        yield b"\r\n" + get(target=b"/" + b"a" * (size - fixed))
        yield get(b"X: " + b"a" * (size - 5))
        yield get(b"X: " + b"a" * (size - 3))
        yield get(b"X" * (size - 5) + b": y")
        yield get(b"X:" + b" " * (size - 5) + b"y")
        yield post(LENGTH, b"Content-Type: " + b"a" * (size - 16))
        yield b"A" * size
        yield b"GET / HTTP/1.1\r\nX: " + b"a" * size
    for number in (FIELDS_LIMIT - 2, FIELDS_LIMIT - 1, FIELDS_LIMIT, FIELDS_LIMIT + 1, 1000):
        yield get(*(b"X-%d: y" % index for index in range(number)))
        yield get(*(b"X: y" for _ in range(number)))
        yield get(*(b"X_Y: z" for _ in range(number)))
        yield post(*(b"X-%d: y" % index for index in range(number - 1)), LENGTH)
        yield get(*(b"X-%d: %b" % (index, b"a" * 300) for index in range(number)))
    yield get(*(b"X-%d: %b" % (index, b"a" * 8000) for index in range(90)))
    yield b"GET / HTTP/1.1\r\nX: " + b"a" * 900_000
    yield b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 150_000


def _bodies() -> Iterator[bytes]:
    """Bodies of every size, read and unread, with more or fewer bytes than their Content-Length."""
    for size in (0, 1, 1023, 1024, 8191, 8192, 8193, 16_384, 65_535, 65_536, 65_537, 1 << 20):
        body = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
        for target in (b"/", b"/unread", b"/first?5", b"/lines", b"/pool", b"/pool/unread", b"/pieces"):
            yield sized(body, target=target)
        yield sized(body, b"Connection: close", target=b"/unread")
        yield post(b"Content-Length: %d" % (size + 1), body=body)
        yield post(CHUNKED, body=chunks(body, 4096))
        yield post(b"Content-Length: %d" % size, b"Expect: 100-continue", body=body)
        yield sized(body) + sized(body[:100], target=b"/pool") + get()


def _pipelines() -> Iterator[bytes]:
    """Pipelined requests, with different ones among them."""
    plain = get(b"X: 1", target=b"/a?b")
    for number in (2, 3, 5, 10, 20):
        yield plain * number
        yield sized(BODY) * number
        yield post(CHUNKED, body=ONE_CHUNK) * number
        yield get(target=b"/pool") * number
        yield (plain + get(target=b"/pool") + sized(b"x" * 100)) * number
        yield get(target=b"/large?100000") * number
        yield get(target=b"/pool/large?100000") * number
        yield get(target=b"/pieces") * number
        yield sized(b"y" * 10_000) * number
        yield request(b"HEAD / HTTP/1.1") * number
        yield plain * number + b"GET / HT"
        yield sized(b"x" * 100, target=b"/unread") * number
        yield post(b"Expect: 100-continue", LENGTH) * number
        yield get(target=b"/pool/sleep?0.01") + plain * number
        yield plain * number + get(b"Connection: close") + plain
        yield plain * number + b"\r\n" + plain
    odd = [b"BAD\r\n\r\n", get(b"X : y"), get(b"Connection: close"), get(version=b"HTTP/1.0")]
    odd += [post(b"Content-Length: x"), request(b"HEAD / HTTP/1.1"), post(CHUNKED, body=ONE_CHUNK)]
    odd += [post(CHUNKED, body=b"z\r\n"), get(target=b"/raise"), get(target=b"/raise-middle")]
    odd += [post(b"Expect: x", LENGTH), post(b"Expect: 100-continue", LENGTH), get(target=b"/pool/sleep?0.02")]
    odd += [get(target=b"/short"), get(target=b"/write"), get(target=b"/status?204"), get(target=b"/status?304")]
    odd += [b"\x00", b"\r\n", b"\n", post(LENGTH, CHUNKED, body=ONE_CHUNK), get(target=b"/closing")]
    odd += [get(target=b"/pool/closing"), get(b"Connection: keep-alive", version=b"HTTP/1.0")]
    odd += [request(b"CONNECT h:1 HTTP/1.1"), get(target=b"/large?300000"), get(target=b"/stream?300000")]
    odd += [get(target=b"/unsure"), sized(BODY, target=b"/unsure/unread"), sized(b"x" * 70_000, target=b"/unread")]
    odd += [sized(b"x" * 50_000, target=b"/unread"), sized(b"x" * 5000, target=b"/pool/unread")]
    odd += [get(target=b"/lost-\xff")]
    for one in odd:
        yield plain + one + plain
        yield plain * 5 + one + plain * 5
        yield get(target=b"/pool") + one + sized(BODY) + plain


REPLIES = [b"large?5000", b"large?3000000", b"stream?5000", b"stream?1000000", b"pieces", b"nothing", b"empty"]
REPLIES += [b"unread", b"first", b"lines", b"line", b"raise", b"raise-started", b"raise-middle", b"raise-first"]
REPLIES += [b"restart", b"twice", b"unstarted", b"late-start", b"slow-pieces?0.02", b"sleep?0.01", b"closing", b"write"]
REPLIES += [b"short", b"long", b"headers", b"hop", b"upgrade", b"split", b"bad-name", b"bad-length", b"text", b"none"]
REPLIES += [b"file", b"spin?0.002"]
STATUSES = [b"204+No+Content", b"304+Not+Modified", b"205+Reset", b"100+Continue", b"103+Early+Hints", b"199+x"]
STATUSES += [b"201+Created", b"404+Not+Found", b"500+x", b"599+x", b"999+x", b"200", b"200+", b"99+x", b"2000+x", b"OK"]
STATUSES += [b"+200+OK", b"200+a%0d%0ab", b"200+\xe9", b"000+x", b"301+Moved"]


def _replies() -> Iterator[bytes]:
    """Requests for every kind of reply, in every version and method."""
    for name in [*REPLIES, *(b"status?" + status for status in STATUSES)]:
        for target in (b"/" + name, b"/pool/" + name):
            yield get(target=target)
            yield get(target=target, version=b"HTTP/1.0")
            yield get(b"Connection: keep-alive", target=target, version=b"HTTP/1.0")
            yield get(b"Connection: close", target=target)
            yield request(b"HEAD " + target + b" HTTP/1.1")
            yield sized(b"ab\ncdefghijklm", target=target)
            yield post(CHUNKED, body=chunks(b"ab\ncdefghijklm", 3), target=target)
    for version in (b"HTTP/1.1", b"HTTP/1.0"):
        yield get(target=b"/pool/hints", version=version)


def _garbage() -> Iterator[bytes]:
    """Bytes that are not HTTP/1, and requests that end too early."""
    yield from (
        b"",
        b"G",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\n\n\n",
        b" ",
        b"\x00",
        b"QUIT\r\n",
        b"EHLO x\r\n",
        b"SSH-2.0-x\r\n",
        b"\x80" * 50,
    )
    yield bytes.fromhex("16030100c6010000c20303") + bytes(range(190))  # the start of a TLS handshake
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
    yield b"PRI * HTTP/2.0\r\n\r\n"
    yield from (
        bytes(range(256)),
        b"a" * 100_000,
        b"\r\n" * 50_000,
        b"a\n" * 100,
        b"<xml/>\r\n\r\n",
        b"{}\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    )
    whole = post(LENGTH, b"X: y")
    yield from (whole[:size] for size in range(1, len(whole)))
    whole = post(CHUNKED, body=b"4\r\nabcd\r\n0\r\nX: y\r\n\r\n")
    yield from (whole[:size] for size in range(60, len(whole)))


def _held() -> Iterator[tuple[bytes, ...]]:
    """Streams in which a piece waits for the reply to the piece before it."""
    expecting = post(b"Expect: 100-continue", LENGTH, body=b"")
    yield expecting, WAIT, BODY
    yield expecting, WAIT, b"ab", b"cd"
    yield expecting, WAIT, BODY + get()
    yield post(b"Expect: 100-continue", CHUNKED, body=b""), WAIT, ONE_CHUNK
    yield post(b"Expect: 100-continue", CHUNKED, body=b""), WAIT, b"4\r\nab", b"cd\r\n", LAST
    yield post(b"Expect: 100-continue", CHUNKED, body=b""), WAIT, b"x\r\n"
    yield post(b"Expect: 100-continue", LENGTH, body=b"", target=b"/pool"), WAIT, BODY
    yield post(b"Expect: 100-continue", LENGTH, body=b"", target=b"/unread"), WAIT, BODY
    yield post(b"Expect: 100-continue", b"Content-Length: 1048576", body=b""), WAIT, b"x" * 1048576
    yield post(b"Expect: x", LENGTH, body=b""), WAIT, BODY
    yield get(), expecting, WAIT, BODY
    yield get(), WAIT, get(), WAIT, sized(BODY), WAIT, get()
    yield get(target=b"/pool"), WAIT, get(), WAIT, sized(BODY, target=b"/pool"), WAIT, get()
    yield sized(BODY), WAIT, b"\r\n", get(), WAIT, b"\r\n"
    yield get(), WAIT, b"\x16\x03\x01"
    yield get(b"Connection: close"), WAIT, get()
    yield get(version=b"HTTP/1.0"), WAIT, get()
    yield (
        get(b"Connection: keep-alive", version=b"HTTP/1.0"),
        WAIT,
        get(b"Connection: keep-alive", version=b"HTTP/1.0"),
        WAIT,
    )
    yield get(target=b"/pool/large?2000000"), WAIT, get()
    yield get(target=b"/large?2000000"), WAIT, get()
    yield sized(b"x" * 60_000, target=b"/unread"), WAIT, get()
    yield post(b"Content-Length: 100", target=b"/unread"), WAIT, b"x" * 96 + get()
    yield post(CHUNKED, body=b"4\r\nab", target=b"/unread"), WAIT, b"cd\r\n" + LAST


def hand_written() -> list[Case]:
    """Return the hand-written cases."""
    groups = [_lengths, _codings, _chunk_bodies, _lines, _fields, _expectations, _limits, _bodies, _pipelines]
    groups += [_replies, _garbage]
    cases = [
        Case(f"{group.__name__[1:]} {number}", (stream,))
        for group in groups
        for number, stream in enumerate(dict.fromkeys(group()))
    ]
    return cases + [Case(f"held {number}", pieces) for number, pieces in enumerate(_held())]


# The streams that are mutated. No target has a size or a time, which a mutation could make endless.
_SEEDS = [get(), get(b"Accept: */*", b"User-Agent: curl/8", b"Connection: keep-alive", target=b"/a/b%20c?d=e&f=%41")]
_SEEDS += [get(b"Connection: close", target=b"/pool/a"), get(b"Connection: keep-alive", version=b"HTTP/1.0")]
_SEEDS += [get(b"X-Forwarded-Proto: https", b"X-Forwarded-For: 1.2.3.4", b"SCRIPT_NAME: /a", target=b"/a/b")]
_SEEDS += [get(target=b"http://h/x?y"), request(b"HEAD /a HTTP/1.1", b"Accept: text/html")]
_SEEDS += [request(b"OPTIONS * HTTP/1.1"), sized(BODY)]
_SEEDS += [sized(b'{"a": [1, 2]}', b"Content-Type: application/json", target=b"/predict")]
_SEEDS += [sized(b"GET /inner HTTP/1.1\r\nHost: h\r\n\r\n", target=b"/outer"), sized(b"a\nb\r\nc", target=b"/lines")]
_SEEDS += [sized(b"x" * 300, target=b"/unread"), sized(b"x" * 300, target=b"/pool/first")]
_SEEDS += [post(CHUNKED, body=ONE_CHUNK)]
_SEEDS += [post(CHUNKED, body=b"4;a=b\r\nabcd\r\nA\r\n0123456789\r\n0\r\nX-T: y\r\n\r\n", target=b"/pool")]
_SEEDS += [post(CHUNKED, body=b"4\r\nabcd\r\n" + LAST, target=b"/unread"), post(LENGTH, b"Expect: 100-continue")]
_SEEDS += [post(LENGTH, b"X_Y: z", b"X-Y: z", b"Cookie: a=1", b"Cookie: b=2"), get() + sized(BODY) + get(target=b"/z")]
_SEEDS += [sized(BODY) + post(CHUNKED, body=ONE_CHUNK) + request(b"HEAD / HTTP/1.1") + get(target=b"/pool")]
_SEEDS += [get(target=b"/pieces") + get(target=b"/status?204") + get(target=b"/late-start")]
_TOKENS = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"_", b"-", b"\x0b", b"\x0c", b"\x7f", b"\x80"]
_TOKENS += [b"\xa0", b"\xff", b"%", b"#", b"?", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"\n\n", b"/", b"//", b"*", b"0"]
_TOKENS += [b"1", b"9", b"4", b"a", b"G", b"+", b'"', b"=", b"\\", b"HTTP/1.1", b"HTTP/1.0", LENGTH + b"\r\n"]
_TOKENS += [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", CHUNKED + b"\r\n", b"Transfer-Encoding: identity\r\n"]
_TOKENS += [LAST, ONE_CHUNK, b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n"]
_TOKENS += [b"Host: i\r\n", b"X_Y: z\r\n", b"Upgrade: h2c\r\n", b"GET / HTTP/1.1\r\n"]


def _mutate(stream: bytes, chance: random.Random) -> bytes:
    """Return a stream with one change."""
    place = chance.randrange(len(stream) + 1)
    end = min(len(stream), place + chance.choice([1, 1, 1, 2, 3, 8]))
    lines = stream.split(b"\r\n")
    index, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(11):
        case 0:
            return stream[:place] + bytes([chance.randrange(256)]) + stream[place + 1 :]
        case 1 | 2 | 3:
            return stream[:place] + chance.choice(_TOKENS) + stream[place:]
        case 4:
            return stream[:place] + chance.choice(_TOKENS) + stream[end:]
        case 5:
            return stream[:place] + stream[end:]
        case 6:
            return b"\r\n".join([*lines[: index + 1], *lines[index:]])
        case 7:
            lines[index], lines[other] = lines[other], lines[index]
            return b"\r\n".join(lines)
        case 8:
            ends = [b"\r\n"] * (len(lines) - 1)
            if ends:
                ends[chance.randrange(len(ends))] = chance.choice(
                    [b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\r\n "]
                )
            return b"".join(line + ending for line, ending in zip(lines, [*ends, b""]))
        case 9:
            return stream[:place] + stream[place:end].swapcase() + stream[end:]
        case _:
            second = chance.choice(_SEEDS)
            return (
                stream + second if chance.random() < 0.7 else stream[:place] + second[chance.randrange(len(second)) :]
            )


def generated(number: int, *, seed: int) -> Iterator[Case]:
    """Yield mutations of valid streams; one seed always gives the same ones."""
    chance = random.Random(seed)
    for index in range(number):
        stream = chance.choice(_SEEDS)
        for _ in range(chance.choice([1, 1, 1, 2, 2, 3, 5])):
            stream = _mutate(stream, chance)
        yield Case(f"seed {seed} number {index}", (stream,))


def split(case: Case, *, seed: int) -> Case:
    """Return the case in more pieces: some small streams byte by byte, others cut at a few random places."""
    chance = random.Random(f"{seed} {case.name}")
    stream = case.stream
    if len(stream) < 250 and chance.random() < 0.1:
        places = list(range(1, len(stream)))
    else:
        near = [place for end in (b"\r\n", b"\r", b":", b";") for place in _after(stream[:20_000], end)]
        inside = [chance.randrange(len(stream) + 1) for _ in range(chance.choice([1, 1, 2, 3, 5]))]
        places = sorted({*inside, *chance.sample(near, min(len(near), chance.randrange(3)))} - {0, len(stream)})
    bounds = [0, *places, len(stream)]
    return Case(f"{case.name} split", tuple(stream[start:end] for start, end in itertools.pairwise(bounds)))


def _after(stream: bytes, mark: bytes) -> list[int]:
    places, place = [], stream.find(mark)
    while place >= 0:
        places.append(place + 1)
        place = stream.find(mark, place + 1)
    return places
