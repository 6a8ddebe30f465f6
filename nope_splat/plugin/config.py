"""The method as nerfstudio's programs load it: `ns-train`, `ns-eval`, `ns-viewer` and `ns-export`.

They show a traceback of every error, and no log. Importing this module, which only they need, changes both.
"""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from nope_splat.plugin.learning_rates import optimizer_groups
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.utils.terminal import set_up_terminal

set_up_terminal()

nope_splat = MethodSpecification(
    config=NopeTrainerConfig(
        method_name="nope-splat",
        steps_per_eval_batch=0,
        optimizers=optimizer_groups(),
        # By default nerfstudio's viewer serves everybody who reaches this machine, without a password.
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1"),
        vis="viewer",
    ),
    description="Gaussian splatting from photos without poses or intrinsics, on CUDA or on a CPU.",
)
