"""Takes secrets out of texts before they are kept: what looks like one, and those that are known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

MARK = b"[REDACTED]"

_SHORTEST = 8

_LONGEST_LINE = 1 << 20
"""A longer line is looked through in pieces."""

_OVERLAP = 4096
"""How much of such a piece is looked at again with the next one, so that no secret is cut in two."""

_NAME = (
    rb"[\w.-]{0,64}(?:secret|token|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key"
    rb"|credential)[\w.-]{0,64}"
)
_VALUE = rb"[^\s\"',;&<>()\[\]{}\\]{4,}"

_KEPT_VALUES = re.compile(rb"(?i)(?:true|false|none|null|yes|no|enabled|disabled|required|unknown|[\d.]{1,9})\W*")
"""What stands beside such a name and is no secret: switches, counts."""

_NAMED = re.compile(
    rb"(?i)(?P<name>\bAWS_\w+|(?<![\w])" + _NAME + rb")(?P<between>[\"']?\s{0,3}(?:=>|[:=])\s{0,3}[\"']?|\s+(?=\S{8,}))"
    rb"(?P<value>" + _VALUE + rb")"
)
_OPTION = re.compile(rb"(?i)(?P<name>--(?:" + _NAME + rb"))(?P<between>[ =]+[\"']?)(?P<value>" + _VALUE + rb")")

_SHAPES = tuple(
    re.compile(pattern)
    for pattern in (
        rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        rb"\bgh[pousr]_[A-Za-z0-9]{30,}",
        rb"\bgithub_pat_[A-Za-z0-9_]{30,}",
        rb"\bglpat-[A-Za-z0-9_-]{16,}",
        rb"\bhf_[A-Za-z0-9]{20,}",
        rb"\bsk-[A-Za-z0-9_-]{20,}",
        rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
        rb"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    )
)
_AFTER = tuple(
    re.compile(pattern)
    for pattern in (
        rb"(?i)((?:authorization|cookie)[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|token|digest)\s+)?)[^\s\"',;]{4,}",
        rb"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}",
        rb"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s/:@\"']{0,256}:)[^\s/@\"']+(?=@)",
        rb"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|signature|sig|key)=)[^\s&\"']+",
    )
)
_HINT = re.compile(
    rb"secret|token|passw|passphrase|key|credential|aws_|://|bearer|authorization|cookie|akia|asia|gh[pousr]_|github_pat"
    rb"|glpat|hf_|sk-|xox|eyj|[?&]sig|amz-"
)
"""Without any of these, in lower case, none of the patterns above is found: most lines are done with then."""

_KEY_BEGIN = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")
_KEY_END = re.compile(rb"-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")


class Redactor:
    """Takes secrets out of texts; what was taken out is counted in `count`.

    Args:
        known: secrets that are known; shorter ones than eight letters are not looked for.
        harmless: values that are none, although their names say so, such as the token in a job's name.
    """

    def __init__(self, known: Collection[str] = (), harmless: Collection[str] = ()) -> None:
        self._values: set[bytes] = set()
        self._known: re.Pattern[bytes] | None = None
        self.also(*known)
        self._harmless = {value.encode() for value in harmless}
        self.count = 0

    def also(self, *known: str) -> None:
        """Looks for these secrets too."""
        self._values |= {value.encode() for value in known if len(value) >= _SHORTEST}
        longest_first = sorted(self._values, key=len, reverse=True)
        self._known = re.compile(b"|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """Returns a text without secrets."""
        return b"".join(self.stream([text.encode("utf-8", "surrogateescape")])).decode("utf-8", "surrogateescape")

    def value(self, value: Any) -> Any:
        """Returns what JSON holds with every text in it redacted; names of keys stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {key: self.value(each) for key, each in value.items()}
        return value

    def stream(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Gives a text without secrets, line by line; it is never in memory as a whole."""
        in_key = False
        for line in _lines(pieces):
            begins = _KEY_BEGIN.search(line) if b"-----BEGIN " in line else None
            if in_key or begins:
                ends = _KEY_END.search(line, begins.end() if begins else 0)
                if not in_key and begins:
                    yield self._line(line[: begins.start()]) + self._mark(begins)
                in_key = ends is None
                if ends is not None:
                    yield self._line(line[ends.end() :])
                elif not in_key:
                    yield b"\n"
                continue
            yield self._line(line)

    def _line(self, line: bytes) -> bytes:
        if self._known is not None:
            line = self._known.sub(self._mark, line)
        if _HINT.search(line.lower()) is None:
            return line
        for pattern in _SHAPES:
            line = pattern.sub(self._mark, line)
        for pattern in _AFTER:
            line = pattern.sub(self._after, line)
        line = _OPTION.sub(self._option, line)
        return _NAMED.sub(self._named, line)

    def _mark(self, _: re.Match[bytes]) -> bytes:
        self.count += 1
        return MARK

    def _after(self, match: re.Match[bytes]) -> bytes:
        if match[0].endswith(MARK):
            return match[0]
        self.count += 1
        return match[1] + MARK

    def _option(self, match: re.Match[bytes]) -> bytes:
        if match["value"] in MARK or match["value"].startswith(b"-"):
            return match[0]
        self.count += 1
        return match["name"] + match["between"] + MARK

    def _named(self, match: re.Match[bytes]) -> bytes:
        value = match["value"]
        if value in self._harmless or _KEPT_VALUES.fullmatch(value) or value in MARK:
            return match[0]
        if not match["between"].strip() and not _is_random(value):  # words after a word
            return match[0]
        self.count += 1
        return match["name"] + match["between"] + MARK


def _is_random(value: bytes) -> bool:
    """Tells whether a value that merely follows a name looks like a secret: letters and digits mixed."""
    return bool(re.fullmatch(rb"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9._~+/=-]{16,}", value))


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Gives lines with their ends; a very long one in pieces that are cut where nothing is written together."""
    rest = b""
    for piece in pieces:
        rest += piece
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line + b"\n"
        while len(rest) > _LONGEST_LINE:
            cut = _cut(rest)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _cut(line: bytes) -> int:
    """Returns where to cut a long line: after the last blank or comma that leaves enough to look at."""
    until = len(line) - _OVERLAP
    found = max(line.rfind(mark, 0, until) for mark in (b" ", b",", b";", b"\t"))
    return found + 1 if found > 0 else until
