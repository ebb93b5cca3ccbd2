"""Scores with a stated meaning: fitted on held-out people, measured on people no fit has seen."""
