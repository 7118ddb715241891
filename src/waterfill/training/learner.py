"""What learns: an objective and its optimiser, as the engine arranged them."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from waterfill.codec.model import Codec
from waterfill.training.config import TrainConfig
from waterfill.training.klt import BLOCK_DEVIATIONS
from waterfill.training.objectives import Batch, Losses, objective_of
from waterfill.training.optimisers import make_optimiser

__all__ = ["Learner"]


class Learner:
    """An objective on a codec, with one optimiser for all that learns.

    Networks, a source model and block transforms each have their own learning rate and clipping:
    none is affected by the others' gradients.

    Parameters
    ----------
    config
        Settings of the run.
    fabric
        Processes, devices and precision of the run.
    codec
        The codec to be trained.

    Attributes
    ----------
    objective, optimiser
        As they are checkpointed, without what the engine has put around them.
    """

    def __init__(self, config: TrainConfig, fabric: Fabric, codec: Codec) -> None:
        self._fabric, self._clip = fabric, config.clip
        self.objective = objective_of(config, codec)
        self._parts = self.objective.learners()
        analysis, synthesis = (config.blocks_rate * deviation for deviation in BLOCK_DEVIATIONS)
        rates = {
            "networks": 1.0,
            "source": config.source_rate,
            "analysis": analysis,
            "synthesis": synthesis,
        }
        groups = [{"params": part, "rate": rates[name]} for name, part in self._parts.items()]
        # The scaler of float16 has to look at gradients that the fused optimiser won't show.
        precision = fabric.strategy.precision.precision
        self.optimiser = make_optimiser(
            config.optimiser,
            groups,
            config.learning_rate,
            fused=precision != "16-mixed",
            narrow=precision == "bf16-mixed",
        )
        self._model, self._engaged = fabric.setup(self.objective, self.optimiser)
        if config.compile:
            codec.g_a.compile()
            codec.g_s.compile()

    def set_rate(self, rate: float) -> None:
        """The optimiser's rate for the codec, and in proportion for what learns beside it."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * rate

    def gradients(self, batch: Batch, *, pieces: int = 1, last: bool = True) -> Losses:
        """Losses of one of ``pieces`` parts of a batch; adds up its gradients.

        Processes exchange them at the ``last``.
        """
        with self._fabric.no_backward_sync(self._model, enabled=not last):
            losses: Losses = self._model(batch)
            self._fabric.backward(losses.loss / pieces)
        return losses

    def clip(self) -> float:
        """Clip each part's gradients for itself; the largest norm before."""
        self._fabric.strategy.precision.unscale_gradients(self._engaged)
        parts = self._parts.values()
        norms = [torch.nn.utils.clip_grad_norm_(part, self._clip) for part in parts]
        return float(torch.stack(norms).max())  # not a number if any of them is not

    def step(self) -> None:
        """Go along the gradients."""
        self._engaged.step()

    def forget(self) -> None:
        """Drop the gradients."""
        self._engaged.zero_grad()
