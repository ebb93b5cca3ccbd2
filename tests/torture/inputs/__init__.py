"""Inputs that are damaged or mean harm: generators of them, and what runs a script on them."""
