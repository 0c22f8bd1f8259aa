"""Networks made of the layers below, heads for them, and the networks of PyG behind the same contract.

Most take ``model(x, edge_index, edge_attr=None, batch=None)`` and return a row for each node; a head makes of these the
output of graphs or pairs. Those over events take a sample of what was before. ``model.config`` holds plain values, of
which :func:`from_config` builds the network again.
"""

from graphattn.models.attention_net import AttentionNet
from graphattn.models.contextual_encoder import ContextualEncoder
from graphattn.models.event_head import EventHead
from graphattn.models.event_network import EventNetwork
from graphattn.models.event_peers import TGN, StaticNet
from graphattn.models.event_sequence_model import EventSequenceModel
from graphattn.models.graph_transformer import GraphTransformer
from graphattn.models.heads import GraphHead, LinkHead
from graphattn.models.inf_diffusion_net import InfDiffusionNet
from graphattn.models.inputs import CategoryEmbedding, InputEncoder
from graphattn.models.network import from_config
from graphattn.models.non_parametric_transformer import NonParametricTransformer
from graphattn.models.peers import APPNPNet, GPSNet, MessagePassingNet, SGFormerNet
from graphattn.models.semi_supervised import consistency_loss, mask_labels
from graphattn.models.temporal_net import TemporalNet
from graphattn.models.tgat import TGAT

__all__ = [
    "TGAT",
    "TGN",
    "APPNPNet",
    "AttentionNet",
    "CategoryEmbedding",
    "ContextualEncoder",
    "EventHead",
    "EventNetwork",
    "EventSequenceModel",
    "GPSNet",
    "GraphHead",
    "GraphTransformer",
    "InfDiffusionNet",
    "InputEncoder",
    "LinkHead",
    "MessagePassingNet",
    "NonParametricTransformer",
    "SGFormerNet",
    "StaticNet",
    "TemporalNet",
    "consistency_loss",
    "from_config",
    "mask_labels",
]
