"""The learned re-ranker: a transformer over the list that sees nodes by their similarities to the first of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.engine import Recipe, TrainingLog, load_checkpoint, save_checkpoint, seeded, train
from graphattn.models import ContextualEncoder
from graphattn.retrieval._contextual_data import Array, read_views
from graphattn.retrieval._contextual_training import ContextualTask, cosines, list_features
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ContextualReranker(Reranker):
    r"""Score candidates by codes that a trained transformer gives to the query and its list.

    Nodes, the query and its candidates, are the rows of :math:`\mathbf{C}`; the first :math:`L` of them, the query
    ahead, are the anchors :math:`\mathbf{R}`:

    .. math::
        \mathbf{F} = \mathbf{C} \mathbf{R}^{\top}, \quad \mathbf{X} = \operatorname{encoder}(\mathbf{F}), \quad
        s'_i = \frac{\mathbf{x}_0^{\top} \mathbf{x}_i}{\lVert\mathbf{x}_0\rVert \lVert\mathbf{x}_i\rVert}

    with the :class:`~graphattn.models.ContextualEncoder`. It never sees a descriptor, so that it serves other
    descriptors than those it was trained on. :meth:`fit` minimizes, over lists with positives :math:`y_i` and the query
    itself as one, at temperature :math:`t`,

    .. math::
        -\log \frac{\sum_i y_i e^{s'_i / t}}{\sum_i e^{s'_i / t}} + \lambda\, \frac{1}{K + 1} \sum_i
        \Bigl\lVert \frac{\mathbf{f}_i}{\lVert\mathbf{f}_i\rVert} - \frac{\mathbf{g}_i}{\lVert\mathbf{g}_i\rVert}
        \Bigr\rVert, \quad \mathbf{g}_i = \operatorname{align}(\mathbf{x}_i)

    The first term does not go to 0: with :math:`P` positives of :math:`n` its least value is
    :math:`-\log(P e^{1/t} / (P e^{1/t} + (n - P) e^{-1/t}))`. Lists may have any length. Of those shorter than
    :math:`L` the missing columns are 0, which the encoder has seen in training; candidates behind the :math:`L`-th are
    no anchors. Time per query is that of :math:`O(K^2)` attention, memory :math:`O(K)`.

    Args:
        num_anchors: Anchors :math:`L`.
        width: Channels of the encoder.
        depth: Its blocks.
        heads: Its attention heads.
        dropout: What it drops in training.
        temperature: Temperature :math:`t` of the loss.
        reconstruction: Weight :math:`\lambda` of the second term.
        list_length: Nodes of a list in training, the query among them.
        standardize: Whether similarities are shifted and scaled to mean 0 and deviation 1 within each list. The
            publication does not; where all similarities are alike, as those of faces' pixels, it then learns little.
        **options: As in :class:`~graphattn.retrieval.Reranker`; ``top_k`` is 1024 unless given. The defaults are those
            of the publication but for ``standardize``.

    Attributes:
        encoder_: The network, from :meth:`fit` or :meth:`load`.
        log_: What the training has seen, an :class:`~graphattn.engine.TrainingLog`.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> labels = torch.arange(4).repeat_interleave(6)
        >>> gallery = torch.eye(4)[labels] + 0.3 * torch.rand(24, 4, generator=torch.Generator().manual_seed(0))
        >>> reranker = ContextualReranker(num_anchors=8, width=8, depth=1, heads=2)
        >>> reranker = reranker.fit(gallery, labels=labels, recipe=Recipe(epochs=2), validation=0.5)
        >>> reranker.rerank(gallery[:2], gallery).indices.shape
        torch.Size([2, 24])

    Reference:
        Ouyang et al., "Contextual Similarity Aggregation with Self-attention for Visual Re-ranking", 2021.
    """

    published_top_k = 1024

    encoder_: ContextualEncoder
    log_: TrainingLog

    def __init__(
        self,
        num_anchors: int = 512,
        *,
        width: int = 768,
        depth: int = 2,
        heads: int = 12,
        dropout: float = 0.1,
        temperature: float = 2.0,
        reconstruction: float = 0.2,
        list_length: int = 512,
        standardize: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if not isinstance(list_length, int) or isinstance(list_length, bool) or list_length < 2:
            raise ValueError(f"list_length is {list_length!r}; expected an integer, at least 2")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number")
        if not reconstruction >= 0:
            raise ValueError(f"reconstruction is {reconstruction}; expected a weight of at least 0")
        self.num_anchors = num_anchors
        self.width = width
        self.depth = depth
        self.heads = heads
        self.dropout = dropout
        self.temperature = temperature
        self.reconstruction = reconstruction
        self.list_length = list_length
        self.standardize = standardize
        self._shapes()  # names what is wrong with them

    def fit(
        self,
        gallery: Array | Sequence[Array],
        queries: Array | Sequence[Array] | None = None,
        labels: Array | None = None,
        *,
        recipe: Recipe | None = None,
        validation: float = 0.1,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> ContextualReranker:
        r"""Train the encoder on lists of the nearest items, and keep the epoch that re-ranks held-out lists best.

        Without ``queries`` each item of the gallery is a query, and those of its class are its positives. Some classes
        are held out with all their items; their lists have no items of other classes.

        Args:
            gallery: Vectors ``[N, D]``. A sequence of them, descriptors of the same items by several networks, gives
                as many lists, and an encoder that fits other networks better.
            queries: Vectors ``[Q, D]``, or a sequence as the gallery.
            labels: Class of each item ``[N]``, -1 if it is not known; with ``queries`` which items are relevant to
                which query, ``[Q, N]``, booleans.
            recipe: Epochs, batches, learning rate and seed; as published by default.
            validation: Part of the classes, or queries, that is held out, at least one. With 0 the last epoch is kept.
            checkpoint: File that is written after each epoch, and that a run which was stopped goes on from: it ends
                with the same weights.
            progress: Whether a progress bar is shown.

        Shapes:
            - **input:** ``gallery`` :math:`(N, D)`, ``queries`` :math:`(Q, D)`, ``labels`` :math:`(N,)` or
              :math:`(Q, N)`

        Returns:
            This re-ranker. The training does not have to be repeated for another gallery.

        Raises:
            ValueError: If labels are missing or of another shape, too little is left to train on, or the checkpoint
                belongs to another run.
            TypeError: If vectors are no floating-point tensors or arrays.
        """
        recipe = recipe or Recipe()
        if not 0 <= validation < 1:
            raise ValueError(f"validation is {validation}; expected a part in [0, 1)")
        views = read_views(gallery, queries, labels, normalize=self.normalize, nan_policy=self.nan_policy)
        device = views[0].gallery.device
        with seeded(recipe.seed, 0, device=device):
            held_out = views[0].hold_out(validation)
            encoder = self._make_encoder().to(device)
        training, validating = (
            ContextualTask(
                encoder,
                [view.lists(chosen, self.list_length - 1) for view in views],
                self.temperature,
                self.reconstruction,
                self.standardize,
            )
            for chosen in (~held_out, held_out)
        )
        longest = 1 + training.lists[0].ids.size(1)
        if len(training) == 0 or longest < 2:
            raise ValueError(
                f"labels leave nothing to train on when the part {validation} is held out; "
                "pass more classes or queries, or a smaller validation"
            )
        with torch.no_grad():
            # Anchors that no training list has are ignored, rather than met with weights that were never trained.
            encoder.embed.weight[:, longest:] = 0.0
        config = {**self._settings(), "validation": validation, "data": [view.digest() for view in views]}
        self.log_ = train(
            encoder,
            len(training),
            training.losses,
            recipe,
            evaluate=validating.mean_average_precision if validating.can_be_evaluated else None,
            checkpoint=checkpoint,
            config=config,
            progress=progress,
        )
        self.encoder_ = encoder
        return self

    def save(self, path: str | Path) -> None:
        """Write the options and the weights to one file; a file that is there is replaced once it is complete.

        Args:
            path: The file.

        Raises:
            ValueError: If there was no :meth:`fit`.
        """
        if not hasattr(self, "encoder_"):
            raise ValueError("there is nothing to save; call fit(gallery, labels=labels) first")
        log = {"epochs": self.log_.epochs, "best_epoch": self.log_.best_epoch}
        save_checkpoint(path, self._settings(), encoder=self.encoder_.state_dict(), log=log)

    @classmethod
    def load(
        cls, path: str | Path, device: torch.device | str = "cpu", **options: Unpack[Options]
    ) -> ContextualReranker:
        """Read a re-ranker that :meth:`save` has written.

        Args:
            path: The file; nothing in it is run.
            device: Where the queries will be.
            **options: Take the place of those that it was saved with.

        Raises:
            ValueError: If the file holds something else.
        """
        state = load_checkpoint(path, device=device)
        if "encoder" not in state:
            raise ValueError(f"{path} is no re-ranker; expected a file that ContextualReranker.save wrote")
        reranker = cls(**{**state["config"], **options})
        reranker.encoder_ = reranker._shapes().eval()
        reranker.encoder_.load_state_dict(state["encoder"], assign=True)
        reranker.log_ = TrainingLog(**state["log"])
        return reranker

    def _scores(self, batch: CandidateBatch) -> Tensor:
        encoder = self._trained(batch.nodes)
        affinity = list_features(batch.nodes, batch.node_mask, self.num_anchors, standardize=self.standardize)
        mask = batch.node_mask.clone()
        mask[:, 0] = True  # a list whose query is broken keeps its order, but attention needs somebody to attend to
        return cosines(encoder(affinity, mask))[:, 1:]

    def _trained(self, x: Tensor) -> ContextualEncoder:
        """Return the encoder, in the dtype of the computation."""
        if not hasattr(self, "encoder_"):
            raise ValueError(
                "the re-ranker is not trained; call fit(gallery, labels=labels), or ContextualReranker.load"
            )
        weight = self.encoder_.embed.weight
        if weight.device != x.device:
            raise ValueError(
                f"the encoder is on {weight.device} but queries are on {x.device}; "
                f"load it with device={str(x.device)!r}, or move the queries"
            )
        return self.encoder_ if weight.dtype == x.dtype else copy.deepcopy(self.encoder_).to(x.dtype)

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        return 4 * num_nodes * (3 * width + 4 * self.num_anchors + 14 * self.width)

    def _make_encoder(self) -> ContextualEncoder:
        return ContextualEncoder(self.num_anchors, self.width, self.depth, self.heads, self.dropout)

    def _shapes(self) -> ContextualEncoder:
        """Return an encoder without numbers, which draws none."""
        with torch.device("meta"):
            return self._make_encoder()

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name[-1] != "_"}
