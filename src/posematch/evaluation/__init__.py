"""Scores one can publish: of checkpoints, run folders and prediction files, by every convention."""
