"""Prediction of files and folders: inputs, jobs that survive a kill, results on disk."""
