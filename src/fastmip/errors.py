"""The one error tree of fastmip; every exception that leaves a room derives from it."""


class FastmipError(Exception):
    """Root of every error fastmip raises on purpose."""


class WireError(FastmipError):
    """A control message that cannot be decoded; callers count it and drop the message."""


class ConfigError(FastmipError):
    """Configuration that must stop the start.

    The text is one line naming file, key path and remedy.
    """

    def __init__(self, file: str, path: str, remedy: str) -> None:
        super().__init__(f"{file}: {path}: {remedy}")
        self.file = file
        self.path = path
        self.remedy = remedy


class EngineFull(FastmipError):
    """The packet engine has no room for another binding (reply code 130)."""


class StoreError(FastmipError):
    """The binding store refused a commit (reply code 130)."""
