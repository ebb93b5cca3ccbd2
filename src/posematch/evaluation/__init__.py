"""Scores one can publish: of checkpoints, run folders and prediction files, by every convention."""

from posematch.evaluation.files import evaluate_predictions, evaluate_run
from posematch.evaluation.scores import Evaluation, Part

__all__ = ["Evaluation", "Part", "evaluate_predictions", "evaluate_run"]
