"""The genome store: how it lies on disk, how it is built, read and verified. numpy, no torch."""
