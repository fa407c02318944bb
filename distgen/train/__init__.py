"""The training loop, its checkpoints, and how Ray Train runs it. Start reading in `loop.py`."""
