"""One distillation run: its step, its workers, its driver."""
