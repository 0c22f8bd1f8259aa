"""Networks made of the layers below, heads for them, and the networks of PyG behind the same contract.

Most take ``model(x, edge_index, edge_attr=None, batch=None)`` and return a row for each node; a head makes of these the
output of graphs or pairs. Networks over events take a sample of their past. ``model.config`` holds plain values, of which :func:`from_config` builds the network again.
"""

from graphattn.models.attention_net import AttentionNet
from graphattn.models.contextual_encoder import ContextualEncoder
from graphattn.models.event_head import EventHead
from graphattn.models.event_network import TIME_ENCODINGS, EventNetwork
from graphattn.models.event_peers import TGN, StaticNet
from graphattn.models.graph_transformer import GraphTransformer
from graphattn.models.heads import GraphHead, LinkHead
from graphattn.models.inf_diffusion_net import InfDiffusionNet
from graphattn.models.inputs import CategoryEmbedding, InputEncoder
from graphattn.models.network import from_config
from graphattn.models.peers import APPNPNet, GPSNet, MessagePassingNet, SGFormerNet
from graphattn.models.semi_supervised import consistency_loss, mask_labels
from graphattn.models.temporal_net import TemporalNet
from graphattn.models.tgat import TGAT

__all__ = [
    "TGAT",
    "TGN",
    "TIME_ENCODINGS",
    "APPNPNet",
    "AttentionNet",
    "CategoryEmbedding",
    "ContextualEncoder",
    "EventHead",
    "EventNetwork",
    "GPSNet",
    "GraphHead",
    "GraphTransformer",
    "InfDiffusionNet",
    "InputEncoder",
    "LinkHead",
    "MessagePassingNet",
    "SGFormerNet",
    "StaticNet",
    "TemporalNet",
    "consistency_loss",
    "from_config",
    "mask_labels",
]
