"""The store between stages: append-only JSON lines, and feature files that are memory-mapped.

Every file name carries a fingerprint of all that changes its content, so a changed prompt or model
makes a new file and nothing stale is mixed in. Every line and every few rows carry a checksum, so
what a disk or a copy damaged is named and computed again.
"""
