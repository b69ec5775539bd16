"""PaCo (Cui et al. 2021): contrast with class centres, with other samples and with the keys of a queue."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mem import config, longtail
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32


class Paco(FinetuningLoss):
    """The weighted mean, over the positives of a sample, of their negative log-probabilities in one softmax.

    The softmax of sample i with query q_i is over

    - the classes c, with the logits w_c x_i + log pi_c. The positive is the label, with weight 1;
    - the queries of the other samples of the batch, the keys of all samples of the batch, and the keys in the queue,
      with the logits q_i k / T. The positives are those with the label of sample i, with weight alpha. The sample's own
      query is left out.

    Source: Cui et al. 2021, eq. 5 and 6, and `PaCoLoss` in `PaCo/LT/losses.py` of
    dvlab-research/Parametric-Contrastive-Learning. Predictions use the logits w_c x. The official code adds 1e-9 to pi
    and 1e-12 to the sum of the exponentials, which is left out here. Its queue starts with random vectors and random
    labels; here, entries without a key are left out.

    Args:
        class_counts: Number of training images of each class.
        settings: alpha (`sample_weight`) and T (`contrast.temperature`).
    """

    accepts_mixed_samples = False

    def __init__(self, class_counts: np.ndarray, settings: config.PacoObjective) -> None:
        super().__init__(len(class_counts))
        log_prior = torch.from_numpy(longtail.log_prior(class_counts))
        self.register_buffer("log_prior", log_prior.float(), persistent=False)
        self.settings = settings

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the weighted mean for each sample. The targets contain projections."""
        found = self.required_projections(targets)
        labels, alpha = targets.labels, self.settings.sample_weight
        adjusted = at_least_float32(logits) + self.get_buffer("log_prior")
        others = torch.cat([found.all_queries, found.keys, found.queue.to(found.keys.dtype)])
        other_labels = torch.cat([found.labels, found.labels, found.queue_labels])
        # Under autocast, the similarities would be bfloat16, whose rounding the temperature multiplies.
        with torch.autocast(logits.device.type, enabled=False):
            similarities = found.queries @ others.T / self.settings.contrast.temperature
        columns = torch.arange(len(others), device=labels.device)
        own = columns == columns[found.first : found.first + len(labels), None]
        left_out = own | (other_labels < 0)
        total = torch.cat([adjusted, similarities.masked_fill(left_out, -torch.inf)], dim=1).logsumexp(dim=1)
        positive = (labels[:, None] == other_labels) & ~left_out
        of_samples = similarities.masked_fill(~positive, 0).sum(dim=1)
        of_class = adjusted.gather(1, labels[:, None])[:, 0]
        return total - (of_class + alpha * of_samples) / (1 + alpha * positive.sum(dim=1))
