"""Which images look alike: retrieval by VLAD descriptors of the images' own keypoints.

A vector of locally aggregated descriptors (Jégou et al., CVPR 2010) sums, for each word of a vocabulary, how
the descriptors that belong to the word differ from it. Normalized by word and over all (Arandjelović and
Zisserman, CVPR 2013), and taken relative to their mean (Jégou and Chum, ECCV 2012: what all images show,
and what two lack alike, says nothing), its inner product tells how much two images have in common. The
vocabulary is made of the images at hand, so nothing has to be downloaded.

An image is asked for together with those that are most like it: average query expansion (Chum et al.,
ICCV 2007). What two images of one place do not show alike, those in between do.
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

from nope_splat.scene.features import Keypoints

NUM_WORDS = 256
"""Words of the vocabulary."""
SAMPLE = 64
"""Descriptors per word from which the vocabulary is learned."""
ITERATIONS = 2
"""Steps of k-means; a vocabulary need not be optimal."""
MIN_DISTINCTION = 3.0
"""Standard deviations of chance by which the similarity of images that are alike exceeds zero."""
EXPANSION = 5
"""Most images with which one is asked for."""
MIN_SHARE = 0.5
"""Share of the partners that an image has even if fewer are like it: in a small set all are alike."""


class ImageSimilarity(NamedTuple):
    """How much images look alike."""

    similarity: NDArray[np.float32]
    """Between -1 and 1, expanded; less for an image and itself, and for one without keypoints. (N, N)."""
    beyond_chance: NDArray[np.bool_]
    """Whether two look more alike than what has nothing in common. (N, N)."""

    @classmethod
    @threadpool_limits.wrap(limits=1, user_api="blas")  # its threads spin while they wait
    def of(cls, keypoints: Sequence[Keypoints], seed: int = 0) -> ImageSimilarity:
        """Compare images by their VLAD descriptors.

        Args:
            keypoints: Keypoints of each image, with descriptors.
            seed: Seed of the vocabulary.
        """
        num_images = len(keypoints)
        likeness = cls(np.full((num_images, num_images), -2, np.float32), np.eye(num_images) < 0)
        textured = np.flatnonzero([len(one.xy) > 0 for one in keypoints])
        if len(textured) >= 2:
            vlad = vlad_descriptors([keypoints[image_id] for image_id in textured], seed)
            limit = MIN_DISTINCTION * _chance(vlad, keypoints[0].descriptors.shape[1])
            similarity = vlad @ vlad.T
            np.fill_diagonal(similarity, 0)
            alike = np.where(similarity > limit, similarity, 0)
            expanded = expanded_similarity(similarity, alike).clip(-1, 1)
            np.fill_diagonal(expanded, -2)
            among = np.ix_(textured, textured)
            likeness.similarity[among], likeness.beyond_chance[among] = expanded, alike > 0
        return likeness

    def most_similar(self, num_partners: int) -> list[tuple[int, int]]:
        """Pair each image with those that look most like it, such that all are connected.

        Args:
            num_partners: Most partners of each image; fewer where fewer are alike beyond chance, and
                more where it is the partner of others.

        Returns:
            Pairs of images, the lesser index first, in ascending order.
        """
        counts = np.count_nonzero(self.beyond_chance, axis=1)
        counts = counts.clip(int(np.ceil(MIN_SHARE * num_partners)), num_partners)
        order = np.argsort(-self.similarity, axis=1, kind="stable")
        comparable = self.similarity >= -1
        chosen = np.zeros_like(comparable)
        np.put_along_axis(chosen, order, np.arange(len(order)) < counts[:, None], axis=1)
        chosen &= comparable
        # Groups within which all partners lie are joined where they are most alike.
        distance = np.where(comparable, 2 - self.similarity, 0)  # zero counts as no connection
        chosen |= minimum_spanning_tree(distance).toarray() > 0
        return [(first, second) for first, second in np.argwhere(np.triu(chosen | chosen.T)).tolist()]


def expanded_similarity(
    similarity: NDArray[np.floating], alike: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Similarity of images with the weighted means of others and those most like them.

    Args:
        similarity: Of unit vectors; zero of each with itself. (N, N).
        alike: The same where it is beyond chance, zero elsewhere. (N, N).

    Returns:
        Inner products of the means, as unit vectors, with the vectors; symmetric. (N, N).
    """
    order = np.argsort(-alike, axis=1, kind="stable")
    weights = alike.copy()
    np.put_along_axis(weights, order[:, EXPANSION:], 0, axis=1)
    np.fill_diagonal(weights, 1)
    gram = similarity + np.eye(len(similarity), dtype=similarity.dtype)
    expanded = weights @ gram
    length = np.sqrt(np.einsum("ij,ij->i", expanded, weights))
    expanded /= np.maximum(length, 1e-9)[:, None]
    return (expanded + expanded.T) / 2


def vlad_descriptors(keypoints: Sequence[Keypoints], seed: int = 0) -> NDArray[np.float32]:
    """VLAD descriptor of each image.

    Args:
        keypoints: Keypoints of each image, at least one in each, with descriptors.
        seed: Seed of the vocabulary.

    Returns:
        Vectors of unit length. (N, W D).
    """
    words = _vocabulary(keypoints, seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        vectors = np.stack(list(pool.map(lambda one: _aggregate(one.descriptors, words), keypoints)))
    vectors -= vectors.mean(axis=0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _chance(vlad: NDArray[np.float32], dimension: int) -> float:
    """Standard deviation of the similarity of what has nothing in common: parts of different words."""
    return float(np.std(vlad @ np.roll(vlad, dimension, axis=1).T))


def _vocabulary(keypoints: Sequence[Keypoints], seed: int) -> NDArray[np.float32]:
    """Centers of k-means over a sample of the descriptors. (W, D)."""
    rng = np.random.default_rng(seed)
    share = -(-NUM_WORDS * SAMPLE // len(keypoints))
    sample = np.concatenate(
        [one.descriptors[rng.permutation(len(one.descriptors))[:share]] for one in keypoints]
    )
    sample = rng.permutation(sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster keeps its center
        return kmeans2(sample, sample[:NUM_WORDS], iter=ITERATIONS, minit="matrix")[0]


def _by_word(
    descriptors: NDArray[np.float32], words: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The words to which descriptors belong, the sums of these descriptors and their numbers."""
    # |d - w|^2 = |d|^2 - 2 d.w + |w|^2: the nearest word has the greatest d.w - |w|^2 / 2.
    nearest = (descriptors @ words.T - (words**2).sum(axis=1) / 2).argmax(axis=1)
    order = np.argsort(nearest, kind="stable")
    used, first, counts = np.unique(nearest[order], return_index=True, return_counts=True)
    return used, np.add.reduceat(descriptors[order], first), counts


def _aggregate(descriptors: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of what the descriptors differ from their words, each word's part and the whole normalized."""
    used, sums, counts = _by_word(descriptors, words)
    residuals = np.zeros_like(words)
    residuals[used] = sums - counts[:, None] * words[used]
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-9)
    vector = residuals.ravel()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
