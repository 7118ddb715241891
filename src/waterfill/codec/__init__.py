"""Transforms, priors, channels, and the codec that composes them."""
