"""Measuring instruments: distortion metrics, curves, BD-rate, conventional codecs."""
