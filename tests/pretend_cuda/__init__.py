"""A pretend CUDA device: real values computed on the CPU, under the rules of a GPU.

`install()` gives the process a device `cuda:0`. Its tensors live in ordinary memory, but say that they are on
`cuda:0`, and every operation checks what CUDA would check: tensors of two devices do not mix (but for scalars
and host indices), numpy cannot read a device tensor, an operation needs a CUDA kernel, and so on. gsplat's
own Python runs above a stand-in for its compiled kernels. Nothing of the product is changed.

    python -m pretend_cuda ns-train nope-splat --data SCENE --vis tensorboard --max-num-iterations 60
    python -m pretend_cuda --count table.txt ns-train ...     # also counts synchronizations by phase and line
    python -m pytest -p pretend_cuda.plugin tests/matching/test_disk.py

(with this package's parent folder on PYTHONPATH). The device belongs to the whole process: tests start a
subprocess.

What it shows: that no tensor is left on the wrong device, which lines make the host wait for the device, and
that what is written around gsplat (shapes, types, contiguity, signs and conventions of gradients) fits gsplat
1.4 and 1.5.

What it cannot show:

- gsplat's compiled kernels: that they build, their values, their speed. The stand-in computes by gsplat's own
  PyTorch reference (projection, spherical harmonics) and composites on the CPU.
- Memory, time, streams, races, and the order of floating-point sums on a GPU. Memory and time counters are
  NaN.
- Precision: TF32, cuDNN, fused kernels.
- Operations that PyTorch itself composes of others are trusted: a device bug within PyTorch would not be
  seen.
- More than one GPU.

| module             | what                                                                       |
| ------------------ | -------------------------------------------------------------------------- |
| `device`           | the tensor class, and the rules for every ATen operation                   |
| `functions`        | what never becomes an ATen operation: `.to`, `.numpy`, indexing by lists   |
| `driver`           | stand-ins for `torch.cuda`                                                 |
| `serialization`    | checkpoints with the device tags that CUDA writes                          |
| `synchronizations` | where the host waits for the device, by phase of the training and by line  |
| `gsplat_kernels`   | stand-in for `gsplat.cuda._backend._C` of gsplat 1.4 and 1.5               |
| `compositing`      | pixels from splats, for the stand-in                                       |
| `launcher`         | runs a command on the device                                               |
| `plugin`           | runs tests on the device                                                   |
"""

from pretend_cuda.device import CUDA, DeviceError, is_pretend
from pretend_cuda.installation import install

__all__ = ["CUDA", "DeviceError", "install", "is_pretend"]
