"""A trained model as one file for programs without posematch, checked against the original."""
