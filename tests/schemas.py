"""What models of tests take and give."""

from distgen.models.schema import Schema


def schema(inputs: int, outputs: int, **others: object) -> Schema:
    """So many channels, whatever they are called; bases come first."""
    names = ("A", "C", "G", "T", *(f"input {n}" for n in range(4, inputs)))
    return Schema(names[:inputs], tuple(f"output {n}" for n in range(outputs)), **others)
