"""Which windows, in which order, from which memory: batches of packed DNA with their targets."""
