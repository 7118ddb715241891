"""Whether a training that is there is the one that would be made now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from waterfill.errors import WaterfillError
from waterfill.training.checkpoint import load_facts
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import began_with_others
from waterfill.training.folder import RunFolder

__all__ = ["check_run"]


def check_run(folder: RunFolder, config: TrainConfig, data: str | None) -> None:
    """Refuse a run that was made otherwise than it would be now: its figures were of that.

    Folders are named by what is trained, and stay when settings, photographs or the weights that
    it starts from are others. Of a field that an earlier version did not have nothing is known,
    and nothing is said.

    Parameters
    ----------
    folder
        Of the run; one that was never begun is in order.
    config
        What would be run.
    data
        Fingerprint of the photographs that it would see; None if it need not be trained.

    Raises
    ------
    WaterfillError
        If it was made otherwise.
    TrainingError
        If its checkpoint isn't one.
    """
    if not folder.checkpoint.exists():
        return
    facts = load_facts(folder.checkpoint)
    other = _otherwise(facts, config, data)
    if other is None and began_with_others(folder, config.start):
        other = f"from other weights than {config.start} has now"
    if other is not None:
        raise WaterfillError(
            f"{folder.path}: was trained {other}; remove that folder, or take another --out"
        )


def _otherwise(facts: Mapping[str, Any], config: TrainConfig, data: str | None) -> str | None:
    """What a checkpoint says of a run that is not so now."""
    ours, theirs = config.to_dict(), dict(facts.get("config", {}))
    known = ours | theirs | {"codec": ours["codec"] | theirs.get("codec", {})}
    changed = config.changed_from(known)
    if changed is not None:
        return f"with another {changed}"
    # What falls over a run is another run where that is longer.
    falls = config.schedule != "constant" or config.alpha_decay > 0
    if facts.get("step", 0) > config.steps or (falls and known["steps"] != config.steps):
        return f"with steps {known['steps']}, not {config.steps}"
    if data is not None and facts.get("data") != data:
        return "on other photographs than these"
    return None
