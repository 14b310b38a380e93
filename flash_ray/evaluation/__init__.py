"""Benchmarks are answered, judged and compared here: scores, statistics, reports with pictures."""
