"""Times PyTorch's l1_loss on the GPU: a line of name, type, forward and backward in ms for each."""

import sys

import torch

ELEMENTS = 1 << 25


def milliseconds(call):
    """The median of single calls, by the GPU's own clock."""
    times = []
    for _ in range(24):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times[3:])[10]


def print_line(name, dtype):
    x, y = (torch.rand(ELEMENTS, dtype=dtype, device="cuda", requires_grad=True) for _ in range(2))
    loss = torch.nn.functional.l1_loss(x, y)
    forward = milliseconds(lambda: torch.nn.functional.l1_loss(x, y))
    backward = milliseconds(lambda: torch.autograd.grad(loss, (x, y), retain_graph=True))
    print(f"PyTorch {torch.__version__}", name, forward, backward, sep="\t")


if not torch.cuda.is_available():
    sys.exit("this PyTorch has no GPU")
print_line("float", torch.float32)
print_line("double", torch.float64)
