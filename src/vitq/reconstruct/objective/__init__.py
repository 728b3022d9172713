"""What a segment is trained towards: terms, their distances, curvatures."""
