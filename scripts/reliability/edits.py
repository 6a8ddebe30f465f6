"""Edits of images: stationary and moving overlays, mirroring, cropping and changed copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from scripts.reliability.textures import Image, noise_texture, to_image

Edit = Callable[[Sequence[Image], int], Image]
"""Function that takes all images of a set and an index, and returns the edited image with this index."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom side of a rectangle, as fractions of image width and height."""


def unchanged(images: Sequence[Image], index: int) -> Image:
    """Return the image with the given index unchanged."""
    return images[index]


def by_image(function: Callable[[Image], Image], every: int = 1) -> Edit:
    """Create an edit that applies a function to every image, or to every n-th image.

    Args:
        function: Function that edits one image.
        every: Interval n of the edited images. With 2, every second image is edited, starting with the
            second.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        return np.ascontiguousarray(function(images[index])) if (index + 1) % every == 0 else images[index]

    return edit


def resized(image: Image, width: int, height: int) -> Image:
    """Downscale an image to a width and height in pixels, by area averaging."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def overlay(texture: Image, box: Box) -> Edit:
    """Create an edit that pastes a texture at the same pixels of all images.

    Args:
        texture: The texture.
        box: Rectangle that the texture fills.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        image = images[index].copy()
        height, width = image.shape[:2]
        left, top, right, bottom = np.multiply(box, (width, height, width, height)).astype(int)
        image[top:bottom, left:right] = resized(texture, int(right - left), int(bottom - top))
        return image

    return edit


def timestamp(text: str, font_size: int = 16, place: tuple[float, float] = (0.55, 0.9)) -> Edit:
    """Create an edit that prints a text at the same position of all images.

    Args:
        text: The text. `{}` is replaced by the index of the image.
        font_size: Font size in pixels.
        place: Left and top side of the text, as fractions of image width and height.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        image = PillowImage.fromarray(images[index])
        position = place[0] * image.width, place[1] * image.height
        font = ImageFont.load_default(font_size)
        ImageDraw.Draw(image).text(position, text.format(index), fill=(255, 180, 0), font=font)
        return np.asarray(image)

    return edit


def watermark(num_rows: int, opacity: float) -> Edit:
    """Create an edit that blends rows of text over the whole image.

    Args:
        num_rows: Number of rows of text. The number of columns is half of it.
        opacity: Opacity of the text, 0 to 1.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        image = PillowImage.fromarray(images[index])
        marked = image.copy()
        draw, font = ImageDraw.Draw(marked), ImageFont.load_default(13)
        for row in range(num_rows):
            for column in range(num_rows // 2):
                x = column * image.width / (num_rows / 2) + (row % 2) * 20
                y = row * image.height / num_rows + 5
                draw.text((x, y), "PHOTO AGENCY (c) 2026", fill=(255, 255, 255), font=font)
        return np.asarray(PillowImage.blend(image, marked, opacity))

    return edit


def lens_dirt(num_spots: int, seed: int = 5, opacity: float = 0.8) -> Edit:
    """Create an edit that adds dark blurred spots at the same pixels of all images.

    Args:
        num_spots: Number of spots.
        seed: Random seed of the spots' positions, radii and colors.
        opacity: Opacity of the spots, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    spots = [(rng.random(), rng.random(), rng.uniform(2, 7), rng.uniform(0, 90)) for _ in range(num_spots)]

    def edit(images: Sequence[Image], index: int) -> Image:
        image = images[index].astype(np.float32)
        height, width = image.shape[:2]
        coverage, colors = np.zeros((height, width), np.float32), np.zeros_like(image)
        for x, y, radius, color in spots:
            spot = np.zeros((height, width), np.float32)
            cv2.circle(spot, (int(x * width), int(y * height)), int(radius), 1, -1)
            spot = cv2.GaussianBlur(spot, (0, 0), 1)
            coverage = np.maximum(coverage, spot)
            colors += spot[..., None] * color
        weight = opacity * coverage[..., None]
        return to_image(image * (1 - weight) + weight * np.minimum(colors, 255))

    return edit


def collage(step: int) -> Edit:
    """Create an edit that places an image and three others of the set in the quarters of a frame.

    Args:
        step: Difference between the indices of neighboring images in the frame.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        height, width = images[index].shape[:2]
        frame = np.full((height, width, 3), 255, np.uint8)
        for place in range(4):
            small = resized(images[(index + place * step) % len(images)], width // 2 - 4, height // 2 - 4)
            top, left = (place // 2) * height // 2 + 2, (place % 2) * width // 2 + 2
            frame[top : top + small.shape[0], left : left + small.shape[1]] = small
        return frame

    return edit


def screenshot(seed: int = 300) -> Edit:
    """Create an edit that shows the image in a window, at 70 % of its size, in front of a desktop.

    Args:
        seed: Random seed of the desktop's pattern.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        height, width = images[index].shape[:2]
        frame = noise_texture(seed, (height, width), (3, 5, 9, 20))
        frame[:] = np.where(frame > 150, 235, 40)
        small = resized(images[index], int(width * 0.7), int(height * 0.7))
        top, left = int(0.15 * height), int(0.15 * width)
        frame[top : top + small.shape[0], left : left + small.shape[1]] = small
        return frame

    return edit


def ornamental_frame(seed: int = 400, border: float = 0.06) -> Edit:
    """Create an edit that shows the image in a textured frame.

    Args:
        seed: Random seed of the frame's texture.
        border: Width of the frame, as a fraction of the image width.
    """

    def edit(images: Sequence[Image], index: int) -> Image:
        height, width = images[index].shape[:2]
        frame, b = noise_texture(seed, (height, width), (3, 6, 12, 30)), int(border * width)
        frame[b : height - b, b : width - b] = resized(images[index], width - 2 * b, height - 2 * b)
        return frame

    return edit


def moving_panel(share: float, seed: int = 500) -> Edit:
    """Create an edit that pastes a textured square, which moves from the left to the right image side.

    Args:
        share: Area of the square, as a fraction of the area of the largest square that fits into the image.
        seed: Random seed of the texture.
    """
    texture = noise_texture(seed, (400, 400), (5, 9, 20, 60))

    def edit(images: Sequence[Image], index: int) -> Image:
        image = images[index].copy()
        height, width = image.shape[:2]
        side = int(np.sqrt(share) * min(height, width))
        left = int((width - side) * index / (len(images) - 1))
        top = int((height - side) * (0.5 + 0.3 * np.sin(index)))
        image[top : top + side, left : left + side] = resized(texture, side, side)
        return image

    return edit


def off_center_crop(images: Sequence[Image], index: int) -> Image:
    """Crop an image to three quarters of its width.

    Images with an even index keep the right part, images with an odd index the left part.
    """
    image = images[index]
    quarter = image.shape[1] // 4
    return np.ascontiguousarray(image[:, :-quarter] if index % 2 else image[:, quarter:])


def exposure(images: Sequence[Image], index: int) -> Image:
    """Underexpose the first of every three images, and overexpose the third."""
    return to_image(images[index].astype(np.float64) * (0.25, 1, 2.2)[index % 3])


def low_quality(image: Image) -> Image:
    """Compress an image as JPEG with quality 8."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 8])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)


def brighter(image: Image) -> Image:
    """Brighten an image slightly."""
    return to_image(image * 1.1 + 6)


def half_size(image: Image) -> Image:
    """Halve the resolution of an image."""
    return resized(image, image.shape[1] // 2, image.shape[0] // 2)


def enlarged_middle(image: Image) -> Image:
    """Crop the middle three quarters of width and height, and enlarge them to the size of the image."""
    height, width = image.shape[:2]
    middle = image[height // 8 : -(height // 8), width // 8 : -(width // 8)]
    return np.asarray(cv2.resize(middle, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
