"""Many steps of a WaveNet in one launch on a GPU, in Triton: a program generates one stream.

Between two steps nothing returns to the host, and all that a stream needs beside the weights stays with its program, in
the caches. A vector that all threads of a program need is written to memory and read again behind a barrier.

With TRITON_INTERPRET=1 in the environment, before Triton is imported, the same code runs on a CPU, for tests.

Letters: B streams, T steps, N frames, Q classes, L layers, P past taps per layer, R residual channels, S skip channels.
"""

# ruff: noqa: N803  constants of the compiler are upper case
from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def _product(
    weight, vector,
    rows: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """(rows, columns) @ (columns,) -> (ROWS,), zeros behind the rows; `COLUMNS` columns at a time."""
    row = tl.arange(0, ROWS)[:, None]
    total = tl.zeros((ROWS,), ACC)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        x = tl.load(vector + column, mask=column < columns, other=0.0).to(ACC)
        inside = (row < rows) & (column[None, :] < columns)
        w = tl.load(weight + row * columns + column[None, :], mask=inside, other=0.0).to(ACC)
        total += tl.sum(w * x[None, :], axis=1)
    return total


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _draw(
    logits, scratch, uniform, temperature, top_k, top_p,
    Q: tl.constexpr, CLASSES: tl.constexpr, CHUNK: tl.constexpr,
    GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """Logits (CLASSES,), of which Q are classes -> a class, by the rule of `vqaudio.sampling.logits.draw`.

    `scratch` (Q,): memory of this program. Ranks are counted, not sorted: a class is among the k most likely if fewer
    than k are more likely, and in the nucleus if the more likely ones (of equals, those before it) have less than p.
    """
    index = tl.arange(0, CLASSES)
    logits = tl.where(index < Q, logits, float("-inf"))
    if GREEDY:
        return tl.min(tl.where(logits == tl.max(logits, axis=0), index, CLASSES), axis=0)
    logits = logits.to(tl.float32)
    if TOP_K:
        tl.store(scratch + index, logits.to(scratch.dtype.element_ty), mask=index < Q)
        tl.debug_barrier()
        above = tl.zeros((CLASSES,), tl.int32)
        for start in range(0, Q, CHUNK):
            other = start + tl.arange(0, CHUNK)
            value = tl.load(scratch + other, mask=other < Q, other=float("-inf")).to(tl.float32)
            above += tl.sum((value[None, :] > logits[:, None]).to(tl.int32), axis=1)
        logits = tl.where(above < top_k, logits, float("-inf"))
        tl.debug_barrier()
    weights = tl.exp((logits - tl.max(logits, axis=0)) / temperature)
    probabilities = weights / tl.sum(weights, axis=0)
    if TOP_P:
        tl.store(scratch + index, probabilities.to(scratch.dtype.element_ty), mask=index < Q)
        tl.debug_barrier()
        before = tl.zeros((CLASSES,), tl.float32)
        for start in range(0, Q, CHUNK):
            other = start + tl.arange(0, CHUNK)
            value = tl.load(scratch + other, mask=other < Q, other=0.0).to(tl.float32)
            equal = (value[None, :] == probabilities[:, None]) & (other[None, :] < index[:, None])
            before += tl.sum(tl.where((value[None, :] > probabilities[:, None]) | equal, value[None, :], 0.0), axis=1)
        first = tl.min(tl.where(probabilities == tl.max(probabilities, axis=0), index, CLASSES), axis=0)
        probabilities = tl.where((before < top_p) | (index == first), probabilities, 0.0)
        tl.debug_barrier()
    cumulative = tl.cumsum(probabilities, axis=0)
    passed = tl.where(index < Q, cumulative <= uniform * tl.max(cumulative, axis=0), False)
    return tl.minimum(tl.sum(passed.to(tl.int32), axis=0), Q - 1)


@triton.jit
def wavenet_steps(
    embed, taps, bias, residual, residual_bias, skip, skip_bias, head, head_bias, out, out_bias,
    dilations, ring, scratch, previous, inputs, uniforms, chosen, lengths,
    time, steps, frames, hop, bias_stream, bias_frame, temperature, top_k, top_p,
    Q: tl.constexpr, L: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr, LONGEST: tl.constexpr,
    CLASSES: tl.constexpr, CHANNELS: tl.constexpr, SKIPS: tl.constexpr, CHUNK: tl.constexpr,
    FORCED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Takes lengths[b] of T steps of stream b = program_id(0), and writes their classes.

    Weights, (rows, columns) each, in any floating-point type: embed (Q + 1, R); taps (L, P + 1, 2, R, R), the last tap
    is that of the current step, filter_ before gate_; residual (L - 1, R, R); skip (S, L R); head (S, S); out (Q, S);
    biases of the same. bias (B or 1, N, L, 2, R): of the gates, with frame and speaker.

    State: ring (B, L, LONGEST, R), the inputs of layer l at time t in slot t mod (P dilations[l]); scratch
    (B, L R + 2 S + R + Q); previous (B,). `time`: steps before these. inputs (B, T): of the steps, if FORCED.
    """
    stream = tl.program_id(0)
    channel, skips, classes = tl.arange(0, CHANNELS), tl.arange(0, SKIPS), tl.arange(0, CLASSES)
    ring += stream * (L * LONGEST * R)
    scratch += stream * (L * R + 2 * S + R + Q)
    hidden, skipped, headed, drawn = scratch, scratch + R, scratch + R + S, scratch + R + 2 * S
    gated = scratch + R + 2 * S + Q
    last = tl.load(previous + stream)
    length, step = tl.load(lengths + stream), 0
    while step < length:  # not range, whose bound Triton's interpreter cannot read with NumPy 2.4
        if FORCED:
            last = tl.load(inputs + stream * steps + step)
        frame_bias = bias + stream * bias_stream + tl.minimum(step // hop, frames - 1) * bias_frame
        h = tl.load(embed + last * R + channel, mask=channel < R, other=0.0).to(ACC)
        for layer in range(L):
            dilation = tl.load(dilations + layer)
            slots = ring + layer * (LONGEST * R)
            tl.store(hidden + channel, h, mask=channel < R)
            tl.debug_barrier()
            own = frame_bias + layer * (2 * R) + channel
            filter_ = tl.load(own, mask=channel < R, other=0.0).to(ACC)
            gate_ = tl.load(own + R, mask=channel < R, other=0.0).to(ACC)
            for tap in range(P):  # the oldest first
                past = slots + ((time + step + tap * dilation) % (P * dilation)) * R
                weight = taps + (layer * (P + 1) + tap) * (2 * R * R)
                filter_ += _product(weight, past, R, R, CHANNELS, CHUNK, ACC)
                gate_ += _product(weight + R * R, past, R, R, CHANNELS, CHUNK, ACC)
            weight = taps + (layer * (P + 1) + P) * (2 * R * R)
            filter_ += _product(weight, hidden, R, R, CHANNELS, CHUNK, ACC)
            gate_ += _product(weight + R * R, hidden, R, R, CHANNELS, CHUNK, ACC)
            z = _tanh(filter_) * tl.sigmoid(gate_)
            tl.store(gated + layer * R + channel, z, mask=channel < R)
            tl.debug_barrier()  # all have read the oldest past, which the present replaces
            tl.store(slots + ((time + step) % (P * dilation)) * R + channel, h, mask=channel < R)
            if layer < L - 1:
                h += tl.load(residual_bias + layer * R + channel, mask=channel < R, other=0.0).to(ACC)
                h += _product(residual + layer * R * R, gated + layer * R, R, R, CHANNELS, CHUNK, ACC)
        v = tl.load(skip_bias + skips, mask=skips < S, other=0.0).to(ACC)
        v += _product(skip, gated, S, L * R, SKIPS, CHUNK, ACC)
        tl.store(skipped + skips, tl.maximum(v, 0.0), mask=skips < S)
        tl.debug_barrier()
        v = tl.load(head_bias + skips, mask=skips < S, other=0.0).to(ACC)
        v += _product(head, skipped, S, S, SKIPS, CHUNK, ACC)
        tl.store(headed + skips, tl.maximum(v, 0.0), mask=skips < S)
        tl.debug_barrier()
        logits = tl.load(out_bias + classes, mask=classes < Q, other=0.0).to(ACC)
        logits += _product(out, headed, Q, S, CLASSES, CHUNK, ACC)
        uniform = tl.load(uniforms + stream * steps + step)
        last = _draw(
            logits, drawn, uniform, temperature, top_k, top_p, Q, CLASSES, CHUNK, GREEDY, TOP_K, TOP_P
        ).to(tl.int64)  # fmt: skip
        tl.store(chosen + stream * steps + step, last)
        step += 1
    tl.store(previous + stream, last)
