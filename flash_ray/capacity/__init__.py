"""How a run would do on more machines than one has: a small model with its assumptions stated.

    python -m flash_ray.capacity RECIPE            # a table for 8, 64 and 512 GPUs
    python -m tests.benchmarks.capacity             # the same model against runs on this machine

`inputs` has the transformer's parameters and FLOPs and what is assumed, `workload` the work of
trainers and teachers, `sharding` ZeRO's memory and traffic; `timeline` plays the updates through,
`estimate` puts it together.
"""
