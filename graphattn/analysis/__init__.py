"""Reading what attention does: its maps in any model, their measures, their causes, and how faithful they are.

Two modules are imported whole: ``depth_width``, about the shape of a model, and ``transport``, about its training.
"""

from graphattn.analysis import depth_width, transport
from graphattn.analysis.capture import capture, stream_attention
from graphattn.analysis.capture_layers import Capture, LayerAttention
from graphattn.analysis.causal import CausalGraph, causal_graph
from graphattn.analysis.causal_baseline import attention_threshold
from graphattn.analysis.causal_direct import direct_weights
from graphattn.analysis.causal_explain import Explanations, exhaustive_explanations, explain, masking_test
from graphattn.analysis.causal_pag import Pag
from graphattn.analysis.faithfulness import Faithfulness, RemovalTest, faithfulness, removal_test
from graphattn.analysis.flow import flow
from graphattn.analysis.head_similarity import head_similarity, output_similarity
from graphattn.analysis.influence import influence
from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.modality import modality_flow
from graphattn.analysis.probe_model import ProbeModel, load_probe_model, repetition_loss
from graphattn.analysis.projection_recorder import ProjectionRecorder
from graphattn.analysis.randomized_control import RandomizedControl, randomized_control
from graphattn.analysis.roles import head_roles, offset_score, pool_roles, repeated_tokens
from graphattn.analysis.rollout import rollout, rollout_rows
from graphattn.analysis.sinks import sink_mask, sink_rate, sinks
from graphattn.analysis.spectrum import explained_curves, spectrum
from graphattn.analysis.structure import attention_graph, centrality, communities
from graphattn.analysis.symmetric_init import symmetric_init_
from graphattn.analysis.symmetry import directionality, query_key_symmetry, symmetry

__all__ = [
    "AttentionMaps",
    "Capture",
    "CausalGraph",
    "Explanations",
    "Faithfulness",
    "LayerAttention",
    "Pag",
    "ProbeModel",
    "ProjectionRecorder",
    "RandomizedControl",
    "RemovalTest",
    "attention_graph",
    "attention_threshold",
    "capture",
    "causal_graph",
    "centrality",
    "communities",
    "depth_width",
    "direct_weights",
    "directionality",
    "exhaustive_explanations",
    "explain",
    "explained_curves",
    "faithfulness",
    "flow",
    "head_roles",
    "head_similarity",
    "influence",
    "load_probe_model",
    "masking_test",
    "modality_flow",
    "offset_score",
    "output_similarity",
    "pool_roles",
    "query_key_symmetry",
    "randomized_control",
    "removal_test",
    "repeated_tokens",
    "repetition_loss",
    "rollout",
    "rollout_rows",
    "sink_mask",
    "sink_rate",
    "sinks",
    "spectrum",
    "stream_attention",
    "symmetric_init_",
    "symmetry",
    "transport",
]
