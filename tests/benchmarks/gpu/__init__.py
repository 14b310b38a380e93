"""What one GPU does with a model of Qwen-Image-2.1's size: `python -m tests.benchmarks.gpu`.

Weights and conditions are random, so that nothing is downloaded; times and memory do not depend on
them. Neither Ray nor DeepSpeed is needed, except by the section `ray`.
"""
