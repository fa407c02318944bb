"""Source files to numpy arrays; no torch here, build nodes stay light."""
