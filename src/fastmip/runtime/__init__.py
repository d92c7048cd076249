"""The only rooms that touch the world: sockets, netlink, timers, store, command line."""
