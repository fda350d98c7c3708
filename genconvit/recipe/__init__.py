"""Training recipes: what they are, how they are trained and judged, and how they compare."""
