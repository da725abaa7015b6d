"""Training-free composed image retrieval after SEIZE (ACM MM 2024) and LDRE (SIGIR 2024)."""

__version__ = "0.1.0"
