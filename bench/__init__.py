"""Benchmarks: one file per question; ``sh ./run bench`` runs them all."""
