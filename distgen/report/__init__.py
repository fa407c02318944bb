"""What a run looked like: one self-contained page."""
