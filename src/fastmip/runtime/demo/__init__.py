"""The demonstration: a whole Mobile IP network in namespaces, real traffic, real moves."""
