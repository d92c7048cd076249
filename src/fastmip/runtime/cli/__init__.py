"""The command line: a thin client of the daemon's control socket, and the tools around it."""
