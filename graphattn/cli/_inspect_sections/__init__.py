"""The sections of the report of ``graphattn inspect``, each with what it measures and how it shows that."""

from graphattn.cli._inspect_sections import (
    affinity,
    causal,
    control,
    flow,
    heads,
    influence,
    modality,
    overview,
    roles,
    rollout,
    similarity,
    sinks,
    spectrum,
    structure,
    symmetry,
)

#: In the order of the page.
SECTIONS = tuple(
    module.SECTION
    for module in (
        overview,
        heads,
        roles,
        spectrum,
        sinks,
        symmetry,
        similarity,
        modality,
        affinity,
        structure,
        rollout,
        flow,
        influence,
        control,
        causal,
    )
)
