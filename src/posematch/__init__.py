"""posematch: which heatmap loss makes a pose network localise joints best, and why?"""

__version__ = "0.1.0"
