# The engine with its kernel port and worker threads.

cdef class Engine(BindingCache):
    """The binding cache, its workers and its counters."""
