"""Tone mapping of HDR colors (PQ and HLG, ITU-R BT.2100) to sRGB.

The signal is converted to light on a display with a peak of 1000 cd/m^2. Light is divided by that of HDR
reference white (203 cd/m^2, ITU-R BT.2408), which becomes the white of sRGB, and converted from the primaries
of BT.2020 to those of BT.709. Then all three channels are scaled by f(m) / m, where m is their maximum:

    f(m) = m                                        for m <= k
    f(m) = k + (1 - k) (1 - exp(-(m - k) / (1 - k)))   for m > k

So most colors keep their brightness, highlights approach white, and hues do not change. The function is the
same for all frames, so that the color of a surface does not change during a video.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nope_splat.utils.typing import Array

PQ, HLG = 16, 18
"""Codes of the HDR transfer functions in ITU-T H.273."""
REFERENCE_WHITE, PEAK = 203.0, 1000.0
"""Luminance of HDR reference white, and of the brightest color of an HLG display, in cd/m^2."""
KNEE = 0.6
"""Level k of the module's docstring, up to which colors keep their brightness, as a fraction of reference
white."""
LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])
"""Luminance of red, green and blue of BT.2020, as fractions of the luminance of white. (3,)."""
BT709_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
"""Matrix that converts linear BT.2020 colors to linear BT.709 colors (ITU-R BT.2087). (3, 3)."""
BT709_PRIMARIES = 1
"""Code of the primaries of BT.709 in ITU-T H.273."""
PIXELS_AT_ONCE = 1 << 19
"""Number of pixels that are converted at a time, which limits the memory."""


def hdr_to_srgb(levels: NDArray[np.uint16], primaries: int, transfer: int) -> NDArray[np.uint8]:
    """Convert HDR colors to sRGB.

    Args:
        levels: Red, green and blue, 0 to 65535, as encoded by the transfer function. (H, W, 3).
        primaries: Code of the primaries in ITU-T H.273; all except BT.709 are treated as BT.2020.
        transfer: Code of the transfer function in ITU-T H.273: PQ (16) or HLG (18).

    Returns:
        Colors, 0 to 255. (H, W, 3).
    """
    signal = np.arange(1 << 16) / ((1 << 16) - 1)
    linear = (_pq_light(signal) if transfer == PQ else _hlg_light(signal)).astype(np.float32)
    srgb = np.rint(255 * _srgb_signal(np.arange(1 << 14) / ((1 << 14) - 1))).astype(np.uint8)
    result = np.empty(levels.shape, np.uint8)
    rows = max(1, PIXELS_AT_ONCE // levels.shape[1])
    for top in range(0, len(levels), rows):
        light = linear[levels[top : top + rows]]
        if transfer == HLG:
            luminance = (light @ LUMINANCE_2020.astype(np.float32))[..., None]
            light *= PEAK * np.maximum(luminance, 1e-9) ** 0.2  # the gamma of 1.2 of HLG's display
        light /= REFERENCE_WHITE
        if primaries != BT709_PRIMARIES:
            light = np.maximum(light @ BT709_FROM_BT2020.T.astype(np.float32), 0)
        maximum = light.max(axis=-1, keepdims=True)
        light *= _compress(maximum) / np.maximum(maximum, 1e-9)
        result[top : top + rows] = srgb[np.rint(light.clip(0, 1) * (len(srgb) - 1)).astype(np.int64)]
    return result


def _compress(maximum: Array) -> Array:
    """Compute f(m) of the module's docstring, which compresses highlights to the range of sRGB.

    `maximum` is m, the maximum of the three channels of each pixel, as a fraction of reference white. (...).
    """
    above = np.maximum(maximum - KNEE, 0) / (1 - KNEE)
    return np.minimum(maximum, KNEE) + (1 - KNEE) * -np.expm1(-above)


def _pq_light(signal: Array) -> Array:
    """Convert the PQ signal (0 to 1) to light in cd/m^2 (SMPTE ST 2084)."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _hlg_light(signal: Array) -> Array:
    """Convert the HLG signal (0 to 1) to the light of the scene, 0 to 1 (ARIB STD-B67)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _srgb_signal(light: Array) -> Array:
    """Convert linear light (0 to 1) to the sRGB signal (0 to 1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
