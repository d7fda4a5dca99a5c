"""What every test starts from: one torch thread, as the worker has."""

import torch

torch.set_num_threads(1)
