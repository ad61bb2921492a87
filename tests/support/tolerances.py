"""
Which tolerance when: the numerical contract, and what else may differ by rounding. The only place with these numbers.

A share is of the largest magnitude of the reference. Where nothing is said here, results are equal to the last bit:
log-mel features next to NeMo, token ids, durations, frame indices, times and text. None of them is loosened for a test
to pass; a test that needs another number says in its file why.
"""

from __future__ import annotations

# Next to NeMo, or to the plain loops of `reference/` in float64.

# float32 on a CPU (on a GPU with TF32 off): encoder, CTC log-probabilities, joint network, and the same stages of
# models read from another format.
FLOAT32_SHARE = 5e-6
# bfloat16 and float16: our mean error against NeMo in float32, as a multiple of NeMo's own error.
SIXTEEN_BIT_RATIO = 1.1
# Outputs of NeMo that another machine stored: its Fourier transforms and matrix products round otherwise.
STORED_SHARE = 1e-4
# Confidences, between 0 and 1, which powers and logarithms of probabilities spread.
CONFIDENCE = 1e-5
# Losses next to NeMo: the value, relative, with an absolute part for losses near 0.
LOSS_RELATIVE, LOSS_ABSOLUTE = 1e-5, 1e-6
# And their gradients, relative (the training contract asks for 1e-4).
GRADIENT_RELATIVE, GRADIENT_ABSOLUTE = 1e-4, 1e-6

# Next to ourselves.

# Losses and gradients of a clip in a padded batch, next to the clip by itself.
NEIGHBOUR_LOSS, NEIGHBOUR_GRADIENT_RELATIVE, NEIGHBOUR_GRADIENT_ABSOLUTE = 1e-6, 1e-5, 1e-6
# Log-probabilities and the decoder's states, by a fast loop over transducers next to the readable one: absolute.
DECODING = 1e-5
# Gradients of a whole model by another way to the same mathematics, as a share of the largest of all weights.
GRADIENT_SHARE = 1e-5
# Encoder frames of a compiled or exported graph next to those without, in which operations are fused.
GRAPH_RELATIVE, GRAPH_ABSOLUTE = 1e-4, 3e-5
