/* A GRU's recurrence over a packed batch: `N` rows, `B` sequences, `H` width; all values float32,
 * gates in PyTorch's order: reset, update, new. */
#include "vectors.h"

#define MAX_TILE 12 /* rows at once: enough sums to hide the latency of a product */

/* Calls a function with the number of rows as a constant. */
#define WITH_TILE(tile, function, ...)                          \
    switch (tile) {                                             \
        case 1: function(1, __VA_ARGS__); break;                \
        case 2: function(2, __VA_ARGS__); break;                \
        case 4: function(4, __VA_ARGS__); break;                \
        case 6: function(6, __VA_ARGS__); break;                \
        case 8: function(8, __VA_ARGS__); break;                \
        case 10: function(10, __VA_ARGS__); break;              \
        case 12: function(12, __VA_ARGS__); break;              \
        default: abort();                                       \
    }

/* The next tile: one row or an even number, so that few sizes are compiled. */
INLINE int tile_of(long rows) { return rows == 1 ? 1 : rows < MAX_TILE ? rows & ~1 : MAX_TILE; }

/* Adds to each row's sum its product with weights `(inputs, 8)`. */
INLINE void tile_product(const int tile, int inputs, const float *rows, long stride,
                         const float *weights, V *sums) {
    for (int i = 0; i < inputs; i++) {
        V weight = load_f32(weights + LANES * i);
#pragma GCC unroll 12
        for (int row = 0; row < tile; row++) sums[row] += weight * rows[row * stride + i];
    }
}

/* e to the power of x, relative error below 1e-7: 2^n times a polynomial of the rest. */
INLINE V exponential(V x) {
    I low = x < -87.0f, high = x > 88.0f;
    x = blend(low, broadcast(-87.0f), blend(high, broadcast(88.0f), x));
    V scaled = x * 1.44269504f;
    I n = __builtin_convertvector(
        scaled + blend(scaled < 0, broadcast(-0.5f), broadcast(0.5f)), I);
    V rounded = __builtin_convertvector(n, V);
    x = x - rounded * 0.693359375f - rounded * -2.12194440e-4f;
    V p = broadcast(1.9875691500e-4f);
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    return p * (V)((n + 127) << 23);
}

INLINE V sigmoid(V x) { return 1.0f / (1.0f + exponential(-x)); }

/* Near zero by its series, where the difference from one would lose digits. */
INLINE V hyperbolic_tangent(V x) {
    V square = x * x;
    V small = x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15 + square * (-17.0f / 315))));
    I near = square < 0.01f;
    V far = 2.0f * sigmoid(2.0f * x) - 1.0f;
    return blend(near, small, far);
}

#define LOAD(from, at, count) load(from, at, 1, count)
#define STORE(to, at, count, v) store(to, at, 1, count, v)

/* Eight values of one row's new state. */
INLINE void gru_cell(int count, int c, int width, long row, const float *before,
                     const float *gates, const float *hidden, float *sigmoids, float *new,
                     float *states) {
    const long gate = 3 * row * width + c, at = row * width + c;
    V r = sigmoid(LOAD(gates, gate, count) + LOAD(hidden, gate, count));
    V u = sigmoid(LOAD(gates, gate + width, count) + LOAD(hidden, gate + width, count));
    V n = hyperbolic_tangent(LOAD(gates, gate + 2 * width, count) +
                             r * LOAD(hidden, gate + 2 * width, count));
    STORE(sigmoids, at + row * width, count, r);
    STORE(sigmoids, at + row * width + width, count, u);
    STORE(new, at, count, n);
    STORE(states, at, count, n + u * (LOAD(before, at, count) - n));
}

INLINE void gate_sums(int count, int c, const int tile, int width, int first, const float *before,
                      long row, const float *weights, const float *bias, float *hidden) {
    V sums[MAX_TILE];
    for (int i = 0; i < tile; i++) sums[i] = load_f32(bias + c);
    if (!first)
        tile_product(tile, width, before + row * width, width, weights + (long)c * width, sums);
    for (int i = 0; i < tile; i++) STORE(hidden, 3 * (row + i) * width + c, count, sums[i]);
}

INLINE void gru_tile(const int tile, int width, int first, const float *before, long row,
                     const float *gates, const float *weights, const float *bias, float *hidden,
                     float *sigmoids, float *new, float *states) {
    BY_BLOCK(3 * width, gate_sums, tile, width, first, before, row, weights, bias, hidden)
    for (int i = 0; i < tile; i++)
        BY_BLOCK(width, gru_cell, width, row + i, before, gates, hidden, sigmoids, new, states)
}

/* Packs weights `(outputs, inputs)`, or their transpose `(inputs, outputs)`, by eight outputs:
 * `(outputs / 8, inputs, 8)`, padded with zeros. */
static void pack_weights(int outputs, int inputs, const float *weights, int transposed,
                         float *packed) {
    for (int c = 0; c < outputs; c += LANES)
        for (int i = 0; i < inputs; i++, packed += LANES) {
            if (transposed) {
                store_f32(packed, LOAD(weights, (long)i * outputs + c, outputs - c));
                continue;
            }
            for (int k = 0; k < LANES; k++)
                packed[k] = c + k < outputs ? weights[(long)(c + k) * inputs + i] : 0;
        }
}

/* batch_sizes: sequences that are running at each step, not increasing. gates: the input's part,
 * `(N, 3H)`. weights: `(3H, H)`. bias: `(3H,)`. hidden: the state's part of the gates, `(N, 3H)`.
 * sigmoids: reset and update, `(N, 2H)`. new, states, and before (the states before each step):
 * `(N, H)`. last: the states after each sequence's last step, `(B, H)`. */
void gru_forward(long steps, int width, const int64_t *batch_sizes, const float *gates,
                 const float *weights, const float *bias, float *hidden, float *sigmoids,
                 float *new, float *states, float *before, float *last) {
    const int outputs = round_up(3 * width);
    float *padded_bias = allocate((long)outputs * (width + 1)), *packed = padded_bias + outputs;
    pack_weights(3 * width, width, weights, 0, packed);
    memset(padded_bias, 0, sizeof(float) * outputs);
    memcpy(padded_bias, bias, sizeof(float) * 3 * width);
    memset(before, 0, sizeof(float) * batch_sizes[0] * width);
    long start = 0;
    for (long step = 0; step < steps; step++) {
        const long now = batch_sizes[step], next = step + 1 < steps ? batch_sizes[step + 1] : 0;
        for (long row = 0; row < now;) {
            int tile = tile_of(now - row);
            WITH_TILE(tile, gru_tile, width, step == 0, before, start + row, gates, packed,
                      padded_bias, hidden, sigmoids, new, states)
            row += tile;
        }
        const float *after = states + start * width;
        start += now;
        memcpy(before + start * width, after, sizeof(float) * next * width);
        memcpy(last + next * width, after + next * width, sizeof(float) * (now - next) * width);
    }
    free(padded_bias);
}

/* Eight gradients of one row's gates, from that of its state. */
INLINE void gru_cell_grad(int count, int c, int width, long row, const float *before,
                          const float *grad_states, const float *new, const float *hidden,
                          const float *sigmoids, float *grad_gates, float *grad_hidden,
                          float *grad_state) {
    const long gate = 3 * row * width + c, at = row * width + c;
    V r = LOAD(sigmoids, at + row * width, count);
    V u = LOAD(sigmoids, at + row * width + width, count);
    V n = LOAD(new, at, count), previous = LOAD(before, at, count);
    V state = LOAD(grad_state, c, count);
    if (grad_states) state += LOAD(grad_states, at, count);
    V grad_n = state * (1.0f - u) * (1.0f - n * n);
    V grad_r = grad_n * LOAD(hidden, gate + 2 * width, count) * r * (1.0f - r);
    V grad_u = state * (previous - n) * u * (1.0f - u);
    STORE(grad_gates, gate, count, grad_r);
    STORE(grad_hidden, gate, count, grad_r);
    STORE(grad_gates, gate + width, count, grad_u);
    STORE(grad_hidden, gate + width, count, grad_u);
    STORE(grad_gates, gate + 2 * width, count, grad_n);
    STORE(grad_hidden, gate + 2 * width, count, grad_n * r);
    STORE(grad_state, c, count, state * u);
}

INLINE void state_sums(int count, int c, const int tile, int gates, const float *grad_hidden,
                       const float *weights, int width, float *grad_state) {
    V sums[MAX_TILE];
    for (int i = 0; i < tile; i++) sums[i] = LOAD(grad_state, i * width + c, count);
    tile_product(tile, gates, grad_hidden, gates, weights + (long)c * gates, sums);
    for (int i = 0; i < tile; i++) STORE(grad_state, i * width + c, count, sums[i]);
}

INLINE void gru_tile_grad(const int tile, int width, int first, const float *before, long row,
                          const float *grad_states, const float *weights, const float *new,
                          const float *hidden, const float *sigmoids, float *grad_gates,
                          float *grad_hidden, float *grad_state) {
    for (int i = 0; i < tile; i++)
        BY_BLOCK(width, gru_cell_grad, width, row + i, before, grad_states, new, hidden, sigmoids,
                 grad_gates, grad_hidden, grad_state + i * width)
    if (!first)
        BY_BLOCK(width, state_sums, tile, 3 * width, grad_hidden + 3 * row * width, weights,
                 width, grad_state)
}

/* grad_states, grad_last: gradients of `gru_forward`'s states and last, or NULL. grad_gates,
 * grad_hidden: `(N, 3H)`. grad_bias: `(3H,)`. */
void gru_backward(long steps, int width, const int64_t *batch_sizes, const float *grad_states,
                  const float *grad_last, const float *weights, const float *before,
                  const float *new, const float *hidden, const float *sigmoids, float *grad_gates,
                  float *grad_hidden, float *grad_bias) {
    const int gates = 3 * width, outputs = round_up(width);
    const long state_floats = batch_sizes[0] * width;
    float *packed = allocate((long)outputs * gates + state_floats);
    float *grad_state = packed + (long)outputs * gates;
    pack_weights(width, gates, weights, 1, packed);
    if (grad_last)
        memcpy(grad_state, grad_last, sizeof(float) * state_floats);
    else
        memset(grad_state, 0, sizeof(float) * state_floats);
    long rows = 0;
    for (long step = 0; step < steps; step++) rows += batch_sizes[step];
    for (long step = steps - 1, start = rows; step >= 0; step--) {
        start -= batch_sizes[step];
        for (long row = 0; row < batch_sizes[step];) {
            int tile = tile_of(batch_sizes[step] - row);
            WITH_TILE(tile, gru_tile_grad, width, step == 0, before, start + row, grad_states,
                      packed, new, hidden, sigmoids, grad_gates, grad_hidden,
                      grad_state + row * width)
            row += tile;
        }
    }
    memset(grad_bias, 0, sizeof(float) * gates);
    for (long row = 0; row < rows; row++)
        for (int c = 0; c < gates; c++) grad_bias[c] += grad_hidden[row * gates + c];
    free(packed);
}
