"""What a recipe takes on machines that one has or has not: a small model, its assumptions stated.

    flash-ray recipe plan RECIPE --gpus N --memory 80GB   # whether it fits, and what would
    flash-ray capacity RECIPE                             # a table for 8, 64 and 512 GPUs
    python -m tests.benchmarks.memory                     # planned memory against tensors
    python -m tests.benchmarks.capacity                   # seconds against runs on this machine

`pipeline` has the sizes of a base's parts, `workload` FLOPs, tokens and what is assumed, `memory`
the bytes of each process, which `plan` holds against machines; `changes` makes a recipe fit them.
For `capacity`, `timeline` plays the updates through, and `estimate` divides the GPUs.
"""
