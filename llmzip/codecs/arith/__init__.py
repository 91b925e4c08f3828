"""Coding text token by token with the probabilities that a language model gives."""
