"""fp8: linears with fp8 weights and activations, the memory in fp8, and the measurement of which layers stay as they are."""

from liveact_models.precision.calibration import CALIBRATION, Calibrating, Calibration
from liveact_models.precision.fp8 import FP8, FP8_MAX, Quantised, dequantise, quantise
from liveact_models.precision.linear import Fp8Linear, linears_of, to_fp8
from liveact_models.precision.products import PRODUCTS, choose_product

__all__ = [
    "CALIBRATION",
    "FP8",
    "FP8_MAX",
    "PRODUCTS",
    "Calibrating",
    "Calibration",
    "Fp8Linear",
    "Quantised",
    "choose_product",
    "dequantise",
    "linears_of",
    "quantise",
    "to_fp8",
]
