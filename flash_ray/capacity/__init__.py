"""How a run would do on more machines than one has: a small model with its assumptions stated.

    flash-ray capacity RECIPE                       # a table for 8, 64 and 512 GPUs
    python -m tests.benchmarks.capacity             # the same model against runs on this machine

`workload` has the transformer's parameters and FLOPs, what is assumed, and the work of trainers and
teachers; `timeline` plays the updates through; `estimate` divides the GPUs and adds memory, traffic
and seconds.
"""
