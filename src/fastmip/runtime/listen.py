"""Address and port to listen on, as configured."""

from __future__ import annotations

from ipaddress import ip_address

from fastmip.errors import ConfigError


def parse_listen(text: str) -> tuple[str, int]:
    """``127.0.0.1:9434`` or ``[::1]:9434`` as address and port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if is_bracketed else host)
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    if is_bracketed != (address.version == 6) or not is_number or int(port) > 65535:
        raise ValueError(text)
    return str(address), int(port)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can connect."""
    return ip_address(parse_listen(listen)[0]).is_loopback


def check_metrics(file: str, listen: str) -> None:
    """Refuse what is no address and port. Raises ConfigError."""
    try:
        parse_listen(listen)
    except ValueError:
        raise ConfigError(
            file, "metrics.listen", 'expected address and port, such as "127.0.0.1:9434"'
        ) from None
