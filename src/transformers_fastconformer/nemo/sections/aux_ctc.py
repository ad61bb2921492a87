"""The CTC head of a hybrid model, next to its transducer."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import REQUIRED, Drop, Map, Read, Table, number, section
from .common import REPORTING, NemoReader
from .decoder import CTC_DECODER
from .decoding import check_times_alike, read_decoding
from .loss import convert_reduction

AUX_CTC: Table = {
    "decoder": Read("CTC_DECODER", REQUIRED),
    "decoding": Read("DECODING", check=section),
    "ctc_loss_weight": Map("ctc_loss_weight", 0.5, number),
    "ctc_reduction": Map("ctc_loss_reduction", "mean_batch", convert_reduction),
    "use_cer": Drop(REPORTING),
}


def map_auxiliary_ctc(
    aux_section: Any, vocab_size: int, transducer_section: Any, reader: NemoReader
) -> dict[str, Any]:
    """
    Arguments of the CTC head, whose classes are those of the transducer.

    Args:
        aux_section: The section `aux_ctc`.
        vocab_size: Classes of the transducer, with the blank.
        transducer_section: The section `decoding`.
        reader: Of the archive.
    """
    if aux_section is None:
        raise reader.refuse("aux_ctc", None, "a section, in a hybrid model")
    arguments, values = reader.apply(aux_section, AUX_CTC, "aux_ctc")
    head_arguments, head = reader.apply(values["decoder"], CTC_DECODER, "aux_ctc.decoder")
    if head_arguments["vocab_size"] != vocab_size:
        raise reader.refuse("aux_ctc.decoder.num_classes", head["num_classes"], f"{vocab_size - 1}, as the transducer")
    ctc_decoding, _ = read_decoding(values["decoding"], "aux_ctc.decoding", reader)
    transducer_decoding, _ = read_decoding(transducer_section, "decoding", reader)
    check_times_alike(transducer_decoding, ctc_decoding, reader)
    return {**arguments, "has_ctc_head": True}
