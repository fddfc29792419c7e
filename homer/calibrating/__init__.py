"""Measuring what significance has to be told of a model.

In: a model, and text. Out: a `Calibration`. Read `measuring` first.
"""
