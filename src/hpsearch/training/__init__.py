"""The half of a worker that computes: trials, Trainer, models, kernels, checkpoints, hardware."""
