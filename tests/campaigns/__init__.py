"""Long runs that attack the pipeline; `tests/README.md` has their commands and what they found."""
