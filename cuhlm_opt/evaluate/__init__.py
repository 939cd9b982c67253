"""Accuracy: answers of operating points, judged by unit tests."""
