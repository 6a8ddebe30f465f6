"""Camera models of the projection, selected when a kernel is compiled.

The modules `pinhole` and `fisheye` define the same functions. A kernel takes `CameraFunctions` as a
compile-time constant and calls these functions as its attributes, for example `model.project_gaussian(...)`.
numba compiles the kernel once per camera model, on first use, with the functions of this model inlined. The
kernel therefore has no branches on the camera model.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, models, register_model, unbox

from nope_splat.splatting.rasterizer import fisheye, pinhole
from nope_splat.splatting.rasterizer.kernels import SOURCE_STAMP

_MODULES = {"pinhole": pinhole, "fisheye": fisheye}


class CameraFunctions:
    """Functions of a camera model, passed to kernels as a compile-time constant.

    Args:
        name: "pinhole" or "fisheye".
    """

    def __init__(self, name: str) -> None:
        self._numba_type_ = CameraFunctionsType(name, SOURCE_STAMP)  # attribute that numba reads


class CameraFunctionsType(types.Type):
    """Numba type of `CameraFunctions`. Its name contains the camera model and `SOURCE_STAMP`."""

    def __init__(self, model: str, stamp: int) -> None:
        self.model = model
        super().__init__(name=f"CameraFunctions({model}, {stamp})")


register_model(CameraFunctionsType)(models.OpaqueModel)


@unbox(CameraFunctionsType)
def _unbox(numba_type: CameraFunctionsType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


@infer_getattr
class _Attributes(AttributeTemplate):
    """Attributes of `CameraFunctions`: the compiled functions of the module of the camera model."""

    key = CameraFunctionsType

    def generic_resolve(self, value: CameraFunctionsType, attr: str) -> types.Dispatcher:
        return types.Dispatcher(getattr(_MODULES[value.model], attr))


@lower_getattr_generic(CameraFunctionsType)
def _lower_attribute(
    context: Any, builder: Any, numba_type: CameraFunctionsType, value: Any, attr: str
) -> Any:
    return context.get_dummy_value()  # calls are resolved by the type of the function


CAMERA_FUNCTIONS = {name: CameraFunctions(name) for name in _MODULES}
"""Functions of every camera model by name."""
