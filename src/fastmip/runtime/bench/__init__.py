"""Measuring forwarding: a load generator and a receiver inside the kernel, searches, reports.

``assembler.py`` and ``bpf_calls.py`` put programs into the kernel without a compiler.
``traffic.py`` says what is sent, ``generator.py`` sends it, ``receiver.py`` counts and times what
arrives. ``search.py`` finds rates and knows no packets; ``wire.py`` measures a home agent between
namespaces with all of these; ``report.py`` draws it.
"""
