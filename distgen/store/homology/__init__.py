"""What one part of a split already knows of another: found, reported, and taken apart."""
