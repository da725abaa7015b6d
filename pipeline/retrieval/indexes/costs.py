"""What a search by clusters and a scan would take, to choose between them.

In nanoseconds of one core, fitted to measured searches of 64 to 768 dimensions. What is found does
not depend on them, only how long it takes.
"""

HEAD = 3.0, 0.05
"""An image's first coordinates compared with a query: a fixed part, and one for each coordinate."""

CLUSTER = 30_000.0
"""What a cluster costs beside its images, at most."""

APART = 50.0
"""And what its images cost beside the above where they are read for one query alone."""

FULL = 50.0, 2.0
"""An image read in full for a query: a fixed part, and one for each dimension."""

SCANNED = 6.0, 1 / 64
"""An image compared with a query by the scan: a fixed part, and one for each dimension."""

QUICK = 5.5
"""The same by the quick products of ``bounded.py``, of whatever width."""

CONVERTED = 4.0
"""A number of a feature that a scan reads, whatever the queries."""


def of_scan(images: int, width: int, queries: int, quick: bool) -> float:
    """Return what scanning ``images`` takes, with a ``quick`` product or without."""
    pair = QUICK if quick else SCANNED[0] + SCANNED[1] * width
    return images * (CONVERTED * width + pair * queries)


def of_clusters(
    images: int, width: int, head: int, clusters: int, queries: int, left: float, full: float
) -> float:
    """Return what ``clusters`` take: of all images a query, the share ``left`` is read by its first
    ``head`` coordinates and the share ``full`` in full.
    """
    pairs = images * queries
    looking = min(APART * left * pairs, CLUSTER * clusters)
    reading = left * (HEAD[0] + HEAD[1] * head) + full * (FULL[0] + FULL[1] * width)
    return looking + pairs * reading
