"""From run folders, and nothing else, to tables, curves and pages."""
