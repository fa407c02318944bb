"""The ops for CUDA, in Triton. `reference.py` specifies them."""
