"""The ops for the CPU, compiled by numba on first use and cached on disk. `reference.py` specifies them."""
