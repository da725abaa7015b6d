"""Studies of rankings: comparison, tuning, published figures, frames."""
