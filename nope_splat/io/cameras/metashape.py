"""Read Agisoft Metashape camera files (XML).

Camera transforms take camera coordinates (OpenCV axes) to the coordinates of a component. The transforms of
components, or of the chunk, are similarity transforms to the world. In a rig, a camera without a transform
gets the transform of its master camera, composed with the pose of its sensor relative to the master's sensor.
Metashape's distortion coefficients P1 and P2 are OpenCV's p2 and p1; B1 is fx - fy, and B2 is the skew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from nope_splat.geometry.rigid import rigid
from nope_splat.geometry.similarity import Similarity
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, number, rigid_pose
from nope_splat.io.cameras.entries import CameraEntry, numbers, parsing_camera
from nope_splat.io.cameras.lenses import Lens, Projection, Size, UnsuitableLens, panorama_error
from nope_splat.utils.typing import Array

logger = logging.getLogger(__name__)

PROJECTIONS: dict[str, Projection] = {
    "frame": "perspective",
    "fisheye": "equidistant",
    "equisolid_fisheye": "equisolid",
}
"""Projection (see `Lens.projection`) by the calibration type in the file."""


@dataclass(frozen=True)
class _Chunk:
    """Contents of a Metashape chunk, as dictionaries with the IDs in the file as keys."""

    sensors: Mapping[str | None, Element]
    """XML element of each sensor (camera model with its calibration), by sensor ID."""
    cameras: Mapping[str | None, Element]
    """XML element of each camera (one image), by camera ID."""
    groups: Mapping[str | None, str]
    """Group label of each camera in a group, by camera ID."""
    transforms: Mapping[str | None, Similarity]
    """Similarity transform from each component to the world, by component ID. The transform of the chunk,
    for components without a transform, has the key None."""


def parse_xml(content: bytes) -> Element:
    """Parse an XML file.

    Raises:
        InvalidCamera: If the content is not XML.
    """
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InvalidCamera(str(error)) from error


def read_chunk(path: Path, root: Element) -> Iterator[CameraEntry]:
    """Read the aligned cameras of a Metashape file.

    Args:
        path: The file, for error messages.
        root: Root of the XML document.

    Yields:
        Camera entries. The image name is the label of the camera or, if the camera is in a group, the path
        `group/label`.

    Raises:
        InvalidCamera: If the document contains no cameras.
    """
    chunk = _read_parts(_chunk_of(root))
    component = _component_to_read(path, chunk)
    for camera in chunk.cameras.values():
        label = camera.get("label") or ""
        with parsing_camera(path, label or f"camera {camera.get('id')}"):
            pose = _pose_in_component(camera, chunk)
            if pose is None or (component is not None and _component_id(camera, chunk) != component):
                continue
            sensor = chunk.sensors[camera.get("sensor_id")]
            values, size, kind = _read_calibration(sensor)
            to_world = chunk.transforms.get(_component_id(camera, chunk)) or chunk.transforms[None]
            group = chunk.groups.get(camera.get("id"))
            name = f"{group}/{label}" if group else label
            entry = CameraEntry(name, to_world.apply_to_poses(pose), partial(_lens, values, kind), size)
        yield entry


def _chunk_of(root: Element) -> Element:
    """Return the first chunk with cameras in an XML document."""
    chunks = [root] if root.tag == "chunk" else root.findall(".//chunk")
    for chunk in chunks:
        if chunk.find("cameras") is not None:
            return chunk
    raise InvalidCamera("it has no chunk with cameras")


def _read_parts(chunk: Element) -> _Chunk:
    """Collect the sensors, cameras, groups and transforms of a chunk."""
    cameras = {camera.get("id"): camera for camera in chunk.iterfind("cameras//camera")}
    groups = {
        camera.get("id"): group.get("label") or ""
        for group in chunk.iterfind("cameras//group")
        for camera in group.iter("camera")
    }
    transforms: dict[str | None, Similarity] = {None: _read_similarity(chunk.find("transform"))}
    for component in chunk.iterfind("components/component"):
        if component.find("transform") is not None:
            transforms[component.get("id")] = _read_similarity(component.find("transform"))
    sensors = {sensor.get("id"): sensor for sensor in chunk.iterfind("sensors//sensor")}
    return _Chunk(sensors, cameras, groups, transforms)


def _read_similarity(transform: Element | None) -> Similarity:
    """Read a similarity transform from an XML element; missing parts are replaced by the identity."""
    if transform is None or not list(transform):
        return Similarity(1.0, np.eye(3), np.zeros(3))
    rotation, translation, scale = (transform.findtext(tag) for tag in ("rotation", "translation", "scale"))
    matrix = np.eye(3) if rotation is None else numbers(rotation, 9).reshape(3, 3)
    vector = np.zeros(3) if translation is None else numbers(translation, 3)
    pose = rigid_pose(rigid(matrix, vector))
    factor = 1.0 if scale is None else number({"scale": scale}, "scale")
    if not factor > 0:
        raise InvalidCamera(f"its scale is {factor:g}, but must be positive")
    return Similarity(factor, pose[:3, :3], pose[:3, 3])


def _component_id(camera: Element, chunk: _Chunk) -> str | None:
    """Return the component ID of a camera or, if it is missing, that of the master camera of its rig."""
    master = chunk.cameras.get(camera.get("master_id"), camera)
    return camera.get("component_id") or master.get("component_id")


def _component_to_read(path: Path, chunk: _Chunk) -> str | None:
    """Return the ID of the component to read, and log this choice; None if all components are read.

    If there are several components and not all have a transform to the world, they have no common
    coordinates. Only the component with the most aligned cameras is then read.
    """
    aligned = [camera for camera in chunk.cameras.values() if camera.find("transform") is not None]
    counts = Counter(_component_id(camera, chunk) for camera in aligned)
    if len(counts) < 2 or all(component in chunk.transforms for component in counts):
        return None
    largest, count = counts.most_common(1)[0]
    logger.info(
        f"{path} has {len(counts)} components without common coordinates; the one with the most photos"
        f" ({count}) is used."
    )
    return largest


def _pose_in_component(camera: Element, chunk: _Chunk) -> Array | None:
    """Return the camera-to-component transform (4, 4); None if the camera is not aligned."""
    transform = camera.findtext("transform")
    if transform is not None:
        return rigid_pose(numbers(transform, 16))
    master = chunk.cameras.get(camera.get("master_id"))
    if master is None or master is camera or master.findtext("transform") is None:
        return None
    sensor = chunk.sensors[camera.get("sensor_id")]
    rotation, location = sensor.findtext("rotation"), sensor.findtext("location")
    if rotation is None or location is None:
        return None
    relative = rigid_pose(rigid(numbers(rotation, 9).reshape(3, 3), numbers(location, 3)))
    return rigid_pose(numbers(master.findtext("transform"), 16)) @ relative


def _read_calibration(sensor: Element) -> tuple[dict[str, str], Size, str]:
    """Read the calibration of a sensor: the adjusted calibration if there is one, else the first.

    Returns:
        Parameters by name (empty without a calibration), image size (width, height) in pixels, and type of
        the calibration, such as "frame" or "fisheye".
    """
    calibrations = sensor.findall("calibration")
    adjusted = [item for item in calibrations if item.get("class") == "adjusted"]
    calibration = next(iter(adjusted or calibrations), None)
    resolution = None if calibration is None else calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    if resolution is None:
        raise InvalidCamera(f"its sensor {sensor.get('id')} has no resolution")
    size = number(resolution.attrib, "width"), number(resolution.attrib, "height")
    kind = sensor.get("type") or "frame"
    if calibration is None:
        return {}, size, kind
    values = {item.tag: item.text for item in calibration if item.text is not None}
    return values, size, calibration.get("type") or kind


def _lens(values: Mapping[str, str], kind: str, size: Size) -> Lens:
    """Convert the parameters of a calibration to a lens for an image size (width, height) in pixels."""
    if kind == "spherical":
        raise panorama_error(kind)
    if kind not in PROJECTIONS:
        raise UnsuitableLens(kind, "only the camera types frame and fisheye are supported")
    if not values:
        raise InvalidCamera("its sensor has no calibration")
    if "f" in values:
        fy = number(values, "f")
        fx, skew = fy + number(values, "b1", 0.0), number(values, "b2", 0.0)
        center = size[0] / 2 + number(values, "cx", 0.0), size[1] / 2 + number(values, "cy", 0.0)
    else:  # PhotoScan before version 1.2
        fx, fy, skew = number(values, "fx"), number(values, "fy"), number(values, "skew", 0.0)
        center = number(values, "cx", size[0] / 2), number(values, "cy", size[1] / 2)
    radial = tuple(number(values, f"k{index}", 0.0) for index in range(1, 5))
    p1, p2, p3, p4 = (number(values, f"p{index}", 0.0) for index in range(1, 5))
    check_intrinsics(size, (fx, fy), (*center, skew, *radial, p1, p2, p3, p4))
    return Lens(
        kind,
        (fx, fy),
        center,
        radial if any(radial[2:]) else radial[:2],
        tangential=(p2, p1),
        tangential_factor=(p3, p4),
        skew=skew,
        projection=PROJECTIONS[kind],
    )
