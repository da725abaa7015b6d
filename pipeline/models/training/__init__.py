"""One loop for everything that is trained: resume, checkpoints, validation, records, processes."""
