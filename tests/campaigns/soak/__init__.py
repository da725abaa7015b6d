"""Long runs under load: nothing lost, nothing doubled, nothing leaked."""

MIB = 1 << 20
