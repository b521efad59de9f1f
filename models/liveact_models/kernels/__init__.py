"""What of a layer lies between its products, each in one pass over memory: Triton kernels, beside the plain form of each.

Which form runs is chosen by the tensor's device: Triton's on CUDA where installed, the plain one elsewhere. The two agree to
rounding. Kernels have no gradients: where gradients are on, the plain form runs.
"""

from liveact_models.kernels.fused import compress, gated, modulate, modulate_fp8, norm_rotate, uses_triton

__all__ = ["compress", "gated", "modulate", "modulate_fp8", "norm_rotate", "uses_triton"]
