"""Who said it, and was it said now: security associations, authenticators, freshness."""
