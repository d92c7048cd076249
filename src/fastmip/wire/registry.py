"""The extensions fastmip understands in control messages: one line each.

To add one: its module, a line here, a vector in ``tests/wire/test_vectors.py``.
"""

from __future__ import annotations

from typing import Final

from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import Entry, ExtensionRegistry

CONTROL_EXTENSIONS: Final = ExtensionRegistry(
    [
        Entry(ExtensionType.MOBILE_HOME_AUTHENTICATION, AuthenticationExtension.decode),
        Entry(ExtensionType.MOBILE_FOREIGN_AUTHENTICATION, AuthenticationExtension.decode),
        Entry(ExtensionType.FOREIGN_HOME_AUTHENTICATION, AuthenticationExtension.decode),
    ]
)
"""Pads need no line: they have no length and are part of the walk."""
