"""fastmip: a Mobile IPv4 system with a Cython packet engine."""

__version__ = "0.1.0"
