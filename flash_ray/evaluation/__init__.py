"""Benches answered, judged and shown: ways to spend evaluations, scores, reports with pictures."""
