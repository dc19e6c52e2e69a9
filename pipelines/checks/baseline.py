"""Baseline statistics that a batch is compared with: of the last other batch that passed."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.io import fileio
from tfx.types import Artifact

APPROVED = "statistics_id"  # property of what AnomalyGate approves: the id of the original


class LastApproved(ResolverStrategy):
    """Of `approved`, the newest that came before `statistics` were approved, or none.

    Not simply the newest: a batch that did not pass must not become the measure of the next, and
    the same batch, run again, must be compared with the same one as before, or else nothing after
    it could be taken from the cache. Spans that are later than that of `statistics` do not count.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        """Keeps `statistics`, and of `approved` one or none."""
        current = input_dict["statistics"]
        approved = sorted(input_dict["approved"], key=lambda one: one.id)
        ids = {one.id for one in current}
        own = [one.id for one in approved if one.get_int_custom_property(APPROVED) in ids]
        before = [one for one in approved if not own or one.id < own[0]]
        span = max((one.span for one in current), default=0)
        # files of old batches may have been deleted
        before = [one for one in before if one.span <= span and fileio.exists(one.uri)]
        newest = max(before, key=lambda one: (one.span, one.id), default=None)
        return {"statistics": current, "approved": [newest] if newest else []}
