"""Sans-I/O agents: (bytes, arrival, now) in, effects out; they never raise on input."""
