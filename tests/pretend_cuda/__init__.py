"""A pretend CUDA device: operations run on the CPU, with the checks of a GPU.

`install()` adds a device `cuda:0` to the process. Its tensors are in host memory, but report the device
`cuda:0`. Every operation makes the checks of CUDA: tensors of two devices do not mix (except for scalars and
host indices), numpy cannot read a device tensor, an operation needs a CUDA kernel, and so on. gsplat's Python
code runs on a stand-in for its compiled kernels. nope-splat runs unmodified.

    python -m pretend_cuda ns-train nope-splat --data SCENE --vis tensorboard --max-num-iterations 60
    python -m pretend_cuda --count table.txt ns-train ...     # also counts synchronizations by phase and line
    python -m pytest -p pretend_cuda.plugin tests/matching/test_disk.py

(with this package's parent folder on PYTHONPATH). The device exists for the whole process, so tests start a
subprocess.

It tests that no tensor is on the wrong device and that the calls of gsplat (shapes, types, contiguity,
gradient conventions) are compatible with gsplat 1.4 and 1.5, and it counts the lines that make the host wait
for the device.

It cannot test:

- gsplat's compiled kernels: their compilation, values and speed. The stand-in uses gsplat's PyTorch reference
  (projection, spherical harmonics) and composites on the CPU.
- Memory, time, streams, races, and the order of floating-point sums on a GPU. Memory and time counters are
  NaN.
- Precision: TF32, cuDNN, fused kernels.
- Operations that PyTorch composes of other operations: a device error inside PyTorch is not detected.
- More than one GPU.

| module             | content                                                                    |
| ------------------ | -------------------------------------------------------------------------- |
| `device`           | the tensor class, and the rules for every ATen operation                   |
| `functions`        | functions that are no ATen operations: `.to`, `.numpy`, indexing by lists  |
| `driver`           | stand-ins for `torch.cuda`                                                 |
| `serialization`    | checkpoints with the device tags that CUDA writes                          |
| `synchronizations` | waits of the host for the device, by phase of the training and by line     |
| `gsplat_kernels`   | stand-in for `gsplat.cuda._backend._C` of gsplat 1.4 and 1.5               |
| `compositing`      | compositing for the stand-in                                               |
| `launcher`         | runs a command on the device                                               |
| `plugin`           | runs tests on the device                                                   |
"""

from pretend_cuda.device import CUDA, DeviceError, is_pretend
from pretend_cuda.installation import install

__all__ = ["CUDA", "DeviceError", "install", "is_pretend"]
