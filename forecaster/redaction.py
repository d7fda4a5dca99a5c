r"""Secrets are replaced by `(hidden)` in every text that this process writes, in whichever encoding they appear.

A known secret is found as it is, with any of its characters escaped (as in JSON, `repr`, bytes, URLs or HTML, also one
inside another), as hexadecimal digits, and inside a Base64 text at each of the three alignments. A secret with fewer
characters than `MIN_LENGTH` is not searched for, because ordinary words would vanish with it; it is hidden only where
its place tells that it is one, as in the configuration that the Kafka client logs.
"""

from __future__ import annotations

import base64
import html
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO
from urllib.parse import urlsplit

HIDDEN = "(hidden)"
MIN_LENGTH = 6
"""Length of the shortest secret that is searched for in texts."""
SECRET_NAME = re.compile(r"passw|passphrase|_pwd|secret|token|proxy|credential|jaas|private|api_?key", re.IGNORECASE)
"""Matches names of options whose values are secrets, also most misspelt ones."""
SECRET_MESSAGE = re.compile(r"Sasl(Authenticate|Bytes)|DelegationToken|ScramCredential")
"""Matches names of messages of Kafka's protocol that hold passwords, tokens or proofs of them."""
LINE_LENGTH = 16
"""Length of the shortest line of a secret of several lines, as of a key, that is searched for by itself."""


class Redactor:
    """Replaces known secrets in texts."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._lock = threading.Lock()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these secrets from now on; those that are too short to be searched for are left out."""
        with self._lock:
            for secret in secrets:
                lines = [line for line in secret.splitlines() if len(line) >= LINE_LENGTH]
                self._secrets |= {part for part in (secret, *lines) if len(part) >= MIN_LENGTH}
            longest_first = sorted(self._secrets, key=lambda secret: (-len(secret), secret))
            patterns = [pattern for secret in longest_first for pattern in _encodings(secret)]
            self._pattern = re.compile("|".join(patterns)) if patterns else None

    def hide(self, text: str) -> str:
        """Return the text with `(hidden)` in place of each known secret."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def hide_in(self, value: Any) -> Any:
        """Return a value of a log line without known secrets; values that JSON does not know become text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide(str(name)): self.hide_in(part) for name, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.hide_in(part) for part in value]
        return self.hide(repr(value))


KNOWN_SECRETS = Redactor()
"""The secrets of this process. The settings add them, and everything that is written passes through it."""


class RedactedStream:
    """A text stream that hides the secrets of this process.

    Args:
        stream: takes the text.

    Attributes:
        stream: the stream below, for writers that hide secrets themselves.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text without secrets, and return its length."""
        self.stream.write(KNOWN_SECRETS.hide(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def without_secrets(options: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return options with `(hidden)` in place of values that are secret by their names, or as URLs with passwords."""
    kept: dict[Any, Any] = {}
    for name, value in options.items():
        if is_secret(str(name), value):
            kept[name] = HIDDEN
        else:
            kept[name] = without_secrets(value) if isinstance(value, Mapping) else value
    return kept


def is_secret(name: str, value: Any) -> bool:
    """Return whether an option holds a secret, by its name or because it is a URL with a password."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value in ("", HIDDEN)):
        return False
    return bool(SECRET_NAME.search(name)) or (isinstance(value, str) and any(_url_secrets(value)))


def secrets_in(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts in options that are secret; those in nested objects, too."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from secrets_in({f"{name}.{inner}": part for inner, part in value.items()})
        elif isinstance(value, str) and is_secret(name, value):
            yield value
            yield from _url_secrets(value)


def _url_secrets(value: str) -> Iterator[str]:
    """Yield the password of a URL, if it holds one."""
    try:
        password = urlsplit(value).password if "://" in value else None
    except ValueError:
        return
    if password:
        yield password


def _encodings(secret: str) -> Iterator[str]:
    """Yield regular expressions that match a secret in its usual encodings."""
    yield _escaped(secret)
    data = secret.encode("utf-8", "surrogatepass")
    yield f"(?i:{data.hex()})"
    for shift in range(3):
        core = _base64_core(data, shift)
        if len(core) >= MIN_LENGTH:
            yield re.sub("[+/]", lambda sign: "[+-]" if sign[0] == "+" else "[/_]", core) + "[A-Za-z0-9+/_=-]{0,4}"


def _base64_core(data: bytes, shift: int) -> str:
    """Return the Base64 characters that depend on the data alone, if it begins at this place of a group of three."""
    text = base64.b64encode(bytes(shift) + data).decode()
    return text[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]


def _escaped(secret: str) -> str:
    """Return a regular expression for a text in which any character may be escaped, by any number of backslashes.

    Quantifiers are possessive: the time is proportional to the length of a text, whatever the secret and the text are.
    """
    parts: list[str] = []
    begin = r"(?<!\\)"  # backslashes in front of the secret are tried once, from the first on
    for run in re.findall(r"\\+|[^\\]", secret, re.DOTALL):
        escapes = rf"(?:{begin}\\++)?+"
        if run[0] == "\\":
            parts.append(rf"(?:{begin}\\{{{len(run)},}}+|(?i:{escapes}x5c|%5c){{{len(run)}}})")
        else:
            parts.append(rf"{escapes}(?:{'|'.join(_forms(run))})")
        begin = ""
    return "".join(parts)


def _forms(character: str) -> list[str]:
    """Return regular expressions for one character, without the backslashes in front of it.

    The character itself comes last: `%` and `&` begin their own encoded forms.
    """
    code, data = ord(character), character.encode("utf-8", "surrogatepass")
    forms = [r"\\*+".join(f"(?i:x{byte:02x})" for byte in data)]
    forms.append("".join(f"(?i:%{byte:02x})" for byte in data))
    if code < 0x100:
        forms += [f"(?i:x{code:02x})", f"(?i:u{code:04x})"]
    elif code < 0x10000:
        forms.append(f"(?i:u{code:04x})")
    else:
        high, low = 0xD800 + (code - 0x10000 >> 10), 0xDC00 + (code - 0x10000 & 0x3FF)
        forms += [rf"(?i:u{high:04x})\\*+(?i:u{low:04x})", f"(?i:u{code:08x})"]
    forms += {" ": [r"\+"], "\n": ["n"], "\r": ["r"], "\t": ["t"], "\b": ["b"], "\f": ["f"], "\0": ["0"]}.get(
        character, []
    )
    if character in "&<>\"'":
        forms += [re.escape(html.escape(character)), f"&#{code};", "&apos;"]
    return [*forms, re.escape(character)]
