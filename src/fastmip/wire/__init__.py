"""Bytes to values and back for control messages: no clock, no sockets, no policy."""
