"""Image retrieval by VLAD descriptors.

A vector of locally aggregated descriptors (VLAD, Jégou et al., CVPR 2010) contains, for each visual word, the
sum of the residuals of the descriptors assigned to it. The vectors are normalized per word and as a whole
(Arandjelović and Zisserman, CVPR 2013), and their mean over all images is subtracted (Jégou and Chum, ECCV
2012), because words that all images contain, or that two images both lack, carry no information. The inner
product of two vectors measures how similar their images are. The vocabulary is learned from the images
themselves, so nothing has to be downloaded.

Queries are expanded with the most similar images (average query expansion, Chum et al., ICCV 2007). In this
way, two views of one place that differ too much from each other are connected by the views between them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse.csgraph import minimum_spanning_tree
from threadpoolctl import threadpool_limits

from nope_splat.matching.options import RetrievalOptions
from nope_splat.scene.features import Keypoints

NUM_WORDS = 256
"""Number of visual words in the vocabulary."""
DESCRIPTORS_PER_WORD = 64
"""Number of keypoint descriptors per visual word from which the vocabulary is learned."""
NUM_ITERATIONS = 2
"""Number of k-means iterations. A few suffice, because the vocabulary need not be optimal."""


class ImageSimilarity(NamedTuple):
    """Pairwise similarity of N images."""

    scores: NDArray[np.float32]
    """Cosine similarity after query expansion, from -1 to 1; -2 on the diagonal and for images without
    keypoints. (N, N)."""
    significant: NDArray[np.bool_]
    """True for pairs of images that are significantly more similar than unrelated images. (N, N)."""
    options: RetrievalOptions
    """Options of the retrieval."""

    @classmethod
    @threadpool_limits.wrap(limits=1, user_api="blas")  # idle BLAS threads would spin
    def from_keypoints(
        cls, keypoints: Sequence[Keypoints], options: RetrievalOptions, seed: int = 0
    ) -> ImageSimilarity:
        """Compare images by their VLAD descriptors.

        Args:
            keypoints: Keypoints of each image, with descriptors.
            options: Options of the retrieval.
            seed: Seed of the random sample from which the vocabulary is learned.
        """
        num_images = len(keypoints)
        scores = np.full((num_images, num_images), -2, np.float32)
        significant = np.zeros((num_images, num_images), bool)
        textured = np.flatnonzero([len(features.xy) > 0 for features in keypoints])
        if len(textured) >= 2:
            vlad = vlad_descriptors([keypoints[image_id] for image_id in textured.tolist()], seed)
            sigma = _unrelated_sigma(vlad, keypoints[0].descriptors.shape[1])
            similarity = vlad @ vlad.T
            np.fill_diagonal(similarity, 0)
            similar = np.where(similarity > options.min_similarity_sigmas * sigma, similarity, 0)
            expanded = expanded_similarity(similarity, similar, options.max_num_expansions).clip(-1, 1)
            np.fill_diagonal(expanded, -2)
            block = np.ix_(textured, textured)
            scores[block], significant[block] = expanded, similar > 0
        return cls(scores, significant, options)

    def most_similar_pairs(self, num_partners: int) -> list[tuple[int, int]]:
        """Pair each image with the most similar images, such that all images with keypoints are connected.

        Args:
            num_partners: Maximum number of partners that each image selects. An image selects fewer if fewer
                images are significantly similar. It can have more partners in total, because other images
                also select it.

        Returns:
            Pairs of image indices, the smaller index first, in ascending order.
        """
        counts = np.count_nonzero(self.significant, axis=1)
        counts = counts.clip(int(np.ceil(self.options.min_partner_ratio * num_partners)), num_partners)
        order = np.argsort(-self.scores, axis=1, kind="stable")
        comparable = self.scores >= -1
        selected = np.zeros_like(comparable)
        np.put_along_axis(selected, order, np.arange(len(order)) < counts[:, None], axis=1)
        selected &= comparable
        # Connect separate groups by their most similar images.
        distance = np.where(comparable, 2 - self.scores, 0)  # scipy treats zero as no edge
        selected |= minimum_spanning_tree(distance).toarray() > 0
        return [(first, second) for first, second in np.argwhere(np.triu(selected | selected.T)).tolist()]


def expanded_similarity(
    similarity: NDArray[np.floating], similar: NDArray[np.floating], max_num_expansions: int
) -> NDArray[np.floating]:
    """Compute the similarity of images after average query expansion.

    The expanded query of an image is the weighted mean, scaled to unit length, of its VLAD vector and the
    VLAD vectors of the most similar images. The image itself has the weight 1. Each similar image is weighted
    by its similarity to the image.

    Args:
        similarity: Inner products of the images' unit-length VLAD vectors; zero on the diagonal. (N, N).
        similar: Inner products of significantly similar images; zero for other images. (N, N).
        max_num_expansions: Maximum number of similar images averaged into a query.

    Returns:
        Inner products of expanded queries and VLAD vectors, averaged over the two choices of the query image.
        (N, N).
    """
    order = np.argsort(-similar, axis=1, kind="stable")
    weights = similar.copy()
    np.put_along_axis(weights, order[:, max_num_expansions:], 0, axis=1)
    np.fill_diagonal(weights, 1)
    gram = similarity + np.eye(len(similarity), dtype=similarity.dtype)
    expanded = weights @ gram
    length = np.sqrt(np.einsum("ij,ij->i", expanded, weights))
    expanded /= np.maximum(length, 1e-9)[:, None]
    return (expanded + expanded.T) / 2


def vlad_descriptors(keypoints: Sequence[Keypoints], seed: int = 0) -> NDArray[np.float32]:
    """Compute the VLAD descriptor of each image.

    Args:
        keypoints: Keypoints of each image, with descriptors. Each image must have at least one keypoint.
        seed: Seed of the random sample from which the vocabulary is learned.

    Returns:
        Unit-length VLAD vectors, with D entries for each of the W visual words. (N, W D).
    """
    words = _vocabulary(keypoints, seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        vectors = np.stack(
            list(pool.map(lambda features: _aggregate(features.descriptors, words), keypoints))
        )
    vectors -= vectors.mean(axis=0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _unrelated_sigma(vlad: NDArray[np.float32], dimension: int) -> float:
    """Estimate the standard deviation of the similarities of unrelated images.

    Unrelated images are simulated by shifting one of two VLAD descriptors by one visual word, so that their
    inner product compares residuals of different words.

    Args:
        vlad: VLAD descriptors. (N, W D).
        dimension: Number of entries D of a keypoint descriptor.
    """
    return float(np.std(vlad @ np.roll(vlad, dimension, axis=1).T))


def _vocabulary(keypoints: Sequence[Keypoints], seed: int) -> NDArray[np.float32]:
    """Learn the visual words: k-means centers of a sample of all keypoint descriptors. (W, D)."""
    rng = np.random.default_rng(seed)
    num_per_image = -(-NUM_WORDS * DESCRIPTORS_PER_WORD // len(keypoints))
    sample = np.concatenate(
        [
            features.descriptors[rng.permutation(len(features.descriptors))[:num_per_image]]
            for features in keypoints
        ]
    )
    sample = rng.permutation(sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster keeps its center
        return kmeans2(sample, sample[:NUM_WORDS], iter=NUM_ITERATIONS, minit="matrix")[0]


def _by_word(
    descriptors: NDArray[np.float32], words: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Group keypoint descriptors by their nearest visual word.

    Args:
        descriptors: Keypoint descriptors of one image. (K, D).
        words: Visual words. (W, D).

    Returns:
        Indices of the words that occur (n,), the sum of the descriptors of each of these words (n, D), and
        the number of descriptors of each of these words (n,).
    """
    # |d - w|^2 = |d|^2 - 2 d.w + |w|^2: the nearest word has the greatest d.w - |w|^2 / 2.
    nearest = (descriptors @ words.T - (words**2).sum(axis=1) / 2).argmax(axis=1)
    order = np.argsort(nearest, kind="stable")
    used, first, counts = np.unique(nearest[order], return_index=True, return_counts=True)
    return used, np.add.reduceat(descriptors[order], first), counts


def _aggregate(descriptors: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the VLAD vector of an image. (K, D), (W, D) -> (W D,).

    Residuals of the descriptors are summed by word. Each word's sum is normalized, then the whole vector.
    """
    used, sums, counts = _by_word(descriptors, words)
    residuals = np.zeros_like(words)
    residuals[used] = sums - counts[:, None] * words[used]
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-9)
    vector = residuals.ravel()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
