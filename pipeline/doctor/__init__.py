"""What a run needs, checked."""
