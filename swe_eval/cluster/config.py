"""The fields and classes of ``hydra/launcher=slurm|submitit_local``. Importing this module registers them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Optional

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins


def _register() -> None:
    """What ``conf/hydra/launcher/`` builds on; it is there if the extra ``slurm`` is."""
    plugins = Plugins.instance()  # imports all of them, upstream's launchers among them
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

    from swe_eval.cluster.local_launcher import LocalLauncher
    from swe_eval.cluster.slurm_launcher import SlurmLauncher

    @dataclass
    class Slurm(SlurmQueueConf):
        _target_: str = "hydra_plugins.swe_eval.SlurmLauncher"
        wait: bool = True

    @dataclass
    class Local(LocalQueueConf):
        _target_: str = "hydra_plugins.swe_eval.LocalLauncher"
        at_once: Optional[int] = None  # noqa: UP045 - what OmegaConf reads on Python 3.10

    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="swe_eval_slurm", node=Slurm, provider="swe_eval")
    store.store(group="hydra/launcher", name="swe_eval_local", node=Local, provider="swe_eval")
    for stock in ("submitit_local.yaml", "submitit_slurm.yaml"):  # whose jobs fail without a word
        del store.repo["hydra"]["launcher"][stock]
    # Hydra 1.3 takes plugins from hydra_plugins.* alone; the classes themselves are found where they are
    classes = {Slurm._target_: SlurmLauncher, Local._target_: LocalLauncher}
    plugins.class_name_to_class.update(classes)


if find_spec("submitit"):
    with suppress(ImportError):
        _register()
