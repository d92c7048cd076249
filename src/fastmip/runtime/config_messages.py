"""Turn what tomllib and msgspec say into one line ``FILE: key.path: remedy``.

Values are never quoted: any of them could be a key that landed in the wrong place.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import types
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from fastmip.errors import ConfigError

if TYPE_CHECKING:
    import tomllib

_LOCATED = re.compile(r"^(?P<text>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"missing required field `(.*)`", re.DOTALL)
_GOT = re.compile(r", got `(.*)`")
_TOML_PLACE = re.compile(r"^(?P<text>.*) \(at (?P<place>line \d+, column \d+|end of document)\)$")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def from_toml(file: str, error: tomllib.TOMLDecodeError) -> ConfigError:
    """Explain a syntax error with its line and column."""
    match = _TOML_PLACE.match(str(error))
    if match is None:
        return ConfigError(file, "(file)", "not valid TOML")
    # The parser quotes at most key names and single characters.
    return ConfigError(file, match["place"], _one_line(match["text"]))


def from_validation(file: str, error: msgspec.ValidationError, kind: type) -> ConfigError:
    """Explain a value of the wrong type or range, an unknown or a missing key."""
    match = _LOCATED.match(str(error))
    text, path = (match["text"], match["path"] or "") if match else (str(error), "")
    unknown, missing = _UNKNOWN.search(text), _MISSING.search(text)
    if unknown:
        name = _one_line(unknown[1])
        return ConfigError(file, _join(path, name), _unknown_key(name, _type_at(kind, path)))
    if missing:
        full = _join(path, missing[1])
        return ConfigError(file, full, f"missing: add {describe(_type_at(kind, full))}")
    path = path or "(file)"
    if isinstance(error.__cause__, ValueError):  # our own decoding: the text is the remedy
        return ConfigError(file, path, text)
    got = _GOT.search(text)
    remedy = f"expected {describe(_type_at(kind, path))}"
    return ConfigError(file, path, f"{remedy}, got {got[1]}" if got else remedy)


def describe(kind: Any) -> str:
    """Say in words what a key takes."""
    if get_origin(kind) is Annotated:
        base, meta = get_args(kind)
        return f"{describe(base)} from {meta.ge} to {meta.le}"
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in get_args(kind) if arm is not type(None))
    if get_origin(kind) is tuple:
        return f"a list, each {describe(get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "a table"
    return _WORDS.get(getattr(kind, "__name__", ""), "a value of another kind")


_WORDS = {
    "int": "an integer",
    "bool": "true or false",
    "str": "a string",
    "Address": 'an IPv4 address such as "10.1.0.1"',
    ipaddress.IPv4Network.__name__: 'an IPv4 network such as "10.1.0.0/24"',
    "Key": "a string of hexadecimal digits",
    "AsciiKey": "a string of printable ASCII characters",
    Path.__name__: "a path",
}


def _unknown_key(name: str, table: Any) -> str:
    struct = _struct_in(table)
    names = [field.encode_name for field in msgspec.structs.fields(struct)] if struct else []
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"unknown key: did you mean {close[0]}?"
    return f"unknown key: remove it, known here are {', '.join(names)}"


def _type_at(kind: Any, path: str) -> Any:
    """Follow a path such as ``home_agent.host[0].spi`` through the Structs; None if lost."""
    for name, _index in _STEP.findall(path):
        if not name:  # an index into a list
            if get_origin(kind) is not tuple:
                return None
            kind = get_args(kind)[0]
            continue
        kind = _struct_in(kind)
        if kind is None:
            return None
        hints = get_type_hints(kind, include_extras=True)
        names = {field.encode_name: field.name for field in msgspec.structs.fields(kind)}
        if name not in names:
            return None
        kind = hints[names[name]]
    return kind


def _struct_in(kind: Any) -> Any:
    """Return the Struct a type is, alone or as an arm of a union."""
    arms = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((a for a in arms if isinstance(a, type) and issubclass(a, msgspec.Struct)), None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _one_line(text: str) -> str:
    """Keep control characters out of the line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
