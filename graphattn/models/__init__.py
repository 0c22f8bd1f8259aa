"""Networks made of the layers below, heads for them, and the networks of PyG behind the same contract.

All take ``model(x, edge_index, edge_attr=None, batch=None)`` and return a row for each node; a head makes of these the
output of graphs or pairs. ``model.config`` holds plain values, of which :func:`from_config` builds the network again.
"""

from graphattn.models.attention_net import AttentionNet
from graphattn.models.contextual_encoder import ContextualEncoder
from graphattn.models.graph_transformer import GraphTransformer
from graphattn.models.heads import GraphHead, LinkHead
from graphattn.models.inf_diffusion_net import InfDiffusionNet
from graphattn.models.inputs import CategoryEmbedding, InputEncoder
from graphattn.models.network import from_config
from graphattn.models.peers import APPNPNet, GPSNet, MessagePassingNet, SGFormerNet
from graphattn.models.semi_supervised import consistency_loss, mask_labels

__all__ = [
    "APPNPNet",
    "AttentionNet",
    "CategoryEmbedding",
    "ContextualEncoder",
    "GPSNet",
    "GraphHead",
    "GraphTransformer",
    "InfDiffusionNet",
    "InputEncoder",
    "LinkHead",
    "MessagePassingNet",
    "SGFormerNet",
    "consistency_loss",
    "from_config",
    "mask_labels",
]
