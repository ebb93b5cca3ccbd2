"""What a training leaves: run folders, their tables, and what makes runs comparable."""
