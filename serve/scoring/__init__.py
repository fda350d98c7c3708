"""From a file to a verdict: asks for its crops, and has a detector score them."""
