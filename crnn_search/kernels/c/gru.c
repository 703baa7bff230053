/* A GRU's recurrence, all numbers float32; gates in the order reset, update, new. */
#include "tiles.h"

/* e to the power of x, relative error below 1e-7: 2^n times a polynomial of the rest. */
INLINE V exponential(V x) {
    I low = x < -87.0f, high = x > 88.0f;
    x = choose(low, all(-87.0f), choose(high, all(88.0f), x));
    V scaled = x * 1.44269504f;
    I n = __builtin_convertvector(scaled + choose(scaled < 0, all(-0.5f), all(0.5f)), I);
    V whole = __builtin_convertvector(n, V);
    x = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    V p = all(1.9875691500e-4f);
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    return p * (V)((n + 127) << 23);
}

INLINE V sigmoid(V x) { return 1.0f / (1.0f + exponential(-x)); }

/* Near zero by its series, where the difference of ones would lose digits. */
INLINE V hyperbolic_tangent(V x) {
    V square = x * x;
    V small = x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15 + square * (-17.0f / 315))));
    I near = square < 0.01f;
    V far = 2.0f * sigmoid(2.0f * x) - 1.0f;
    return choose(near, small, far);
}

#define FLOATS(from, at, count) load(from, at, 1, count)

/* One row's eight numbers of a new state. */
INLINE void gru_cell(int count, int c, int width, long row, const float *before, const float *gates,
                     const float *hidden, float *sigmoids, float *new, float *states) {
    const long gate = 3 * row * width + c, at = row * width + c;
    V r = sigmoid(FLOATS(gates, gate, count) + FLOATS(hidden, gate, count));
    V u = sigmoid(FLOATS(gates, gate + width, count) + FLOATS(hidden, gate + width, count));
    V n = hyperbolic_tangent(FLOATS(gates, gate + 2 * width, count) +
                             r * FLOATS(hidden, gate + 2 * width, count));
    store(sigmoids, at + row * width, 1, count, r);
    store(sigmoids, at + row * width + width, 1, count, u);
    store(new, at, 1, count, n);
    store(states, at, 1, count, n + u * (FLOATS(before, at, count) - n));
}

INLINE void gate_sums(int count, int c, const int tile, int width, int first, const float *before,
                      long row, const float *weights, const float *bias, float *hidden) {
    V sums[MAX_TILE];
    for (int i = 0; i < tile; i++) sums[i] = load_floats(bias + c);
    if (!first)
        tile_product(tile, width, before + row * width, width, weights + (long)c * width, sums);
    for (int i = 0; i < tile; i++) store(hidden, 3 * (row + i) * width + c, 1, count, sums[i]);
}

INLINE void gru_tile(const int tile, int width, int first, const float *before, long row,
                     const float *gates, const float *weights, const float *bias, float *hidden,
                     float *sigmoids, float *new, float *states) {
    BY_BLOCK(3 * width, gate_sums, tile, width, first, before, row, weights, bias, hidden)
    for (int i = 0; i < tile; i++)
        BY_BLOCK(width, gru_cell, width, row + i, before, gates, hidden, sigmoids, new, states)
}

/* Weights `(outputs, inputs)`, or turned `(inputs, outputs)`, by eight outputs: `(outputs
 * / 8, inputs, 8)`, filled with zeros. */
static void pack_weights(int outputs, int inputs, const float *weights, int turned, float *packed) {
    for (int c = 0; c < outputs; c += LANES)
        for (int i = 0; i < inputs; i++, packed += LANES) {
            if (turned) {
                store_floats(packed, FLOATS(weights, (long)i * outputs + c, outputs - c));
                continue;
            }
            for (int k = 0; k < LANES; k++)
                packed[k] = c + k < outputs ? weights[(long)(c + k) * inputs + i] : 0;
        }
}

/* alive: rows of each step, falling. gates, hidden: `(N, 3H)`. weights: `(3H, H)`. bias: `(3H)`.
 * sigmoids: `(N, 2H)`. new, states: `(N, H)`. before: the states before, `(N, H)`. last: those after
 * each row's last step. scratch: room for weights and bias, outputs filled to a multiple of eight. */
void gru_forward(long steps, const int64_t *alive, int width, const float *gates,
                 const float *weights, const float *bias, float *hidden, float *sigmoids,
                 float *new, float *states, float *before, float *last, float *scratch) {
    const int outputs = filled(3 * width);
    float *packed = scratch + outputs;
    pack_weights(3 * width, width, weights, 0, packed);
    memset(scratch, 0, sizeof(float) * outputs);
    memcpy(scratch, bias, sizeof(float) * 3 * width);
    memset(before, 0, sizeof(float) * alive[0] * width);
    long start = 0;
    for (long step = 0; step < steps; step++) {
        const long now = alive[step], next = step + 1 < steps ? alive[step + 1] : 0;
        for (long row = 0; row < now;) {
            int tile = even(now - row);
            WITH_TILE(tile, gru_tile, width, step == 0, before, start + row, gates,
                      packed, scratch, hidden, sigmoids, new, states)
            row += tile;
        }
        const float *found = states + start * width;
        start += now;
        memcpy(before + start * width, found, sizeof(float) * next * width);
        memcpy(last + next * width, found + next * width, sizeof(float) * (now - next) * width);
    }
}

/* The gradients of one row's eight numbers, given that of the state. */
INLINE void gru_gradient_cell(int count, int c, int width, long row, const float *before,
                              const float *of_states, const float *new, const float *hidden,
                              const float *sigmoids, float *of_gates, float *of_hidden,
                              float *carried) {
    const long gate = 3 * row * width + c, at = row * width + c;
    V r = FLOATS(sigmoids, at + row * width, count);
    V u = FLOATS(sigmoids, at + row * width + width, count);
    V n = FLOATS(new, at, count), was = FLOATS(before, at, count);
    V state = FLOATS(carried, c, count);
    if (of_states) state += FLOATS(of_states, at, count);
    V of_n = state * (1.0f - u) * (1.0f - n * n);
    V of_r = of_n * FLOATS(hidden, gate + 2 * width, count) * r * (1.0f - r);
    V of_u = state * (was - n) * u * (1.0f - u);
    store(of_gates, gate, 1, count, of_r);
    store(of_hidden, gate, 1, count, of_r);
    store(of_gates, gate + width, 1, count, of_u);
    store(of_hidden, gate + width, 1, count, of_u);
    store(of_gates, gate + 2 * width, 1, count, of_n);
    store(of_hidden, gate + 2 * width, 1, count, of_n * r);
    store(carried, c, 1, count, state * u);
}

INLINE void state_sums(int count, int c, const int tile, int all_gates, const float *of_hidden,
                       const float *weights, int width, float *carried) {
    V sums[MAX_TILE];
    for (int i = 0; i < tile; i++) sums[i] = FLOATS(carried, i * width + c, count);
    tile_product(tile, all_gates, of_hidden, all_gates, weights + (long)c * all_gates, sums);
    for (int i = 0; i < tile; i++) store(carried, i * width + c, 1, count, sums[i]);
}

INLINE void gru_gradient_tile(const int tile, int width, int first, const float *before, long row,
                              const float *of_states, const float *weights, const float *new,
                              const float *hidden, const float *sigmoids, float *of_gates,
                              float *of_hidden, float *carried) {
    for (int i = 0; i < tile; i++)
        BY_BLOCK(width, gru_gradient_cell, width, row + i, before, of_states, new, hidden, sigmoids,
                 of_gates, of_hidden, carried + i * width)
    if (!first)
        BY_BLOCK(width, state_sums, tile, 3 * width, of_hidden + 3 * row * width, weights, width,
                 carried)
}

/* of_states, of_last: gradients of what gru_forward gave, or NULL. of_gates, of_hidden: `(N, 3H)`.
 * of_bias: `(3H)`. scratch: room for turned weights, outputs filled, and for the gradients of the
 * states of one step. */
void gru_backward(long steps, const int64_t *alive, int width, const float *of_states,
                  const float *of_last, const float *weights, const float *before,
                  const float *new, const float *hidden, const float *sigmoids, float *of_gates,
                  float *of_hidden, float *of_bias, float *scratch) {
    const int all_gates = 3 * width, outputs = filled(width);
    float *carried = scratch + (long)outputs * all_gates;
    pack_weights(width, all_gates, weights, 1, scratch);
    if (of_last)
        memcpy(carried, of_last, sizeof(float) * alive[0] * width);
    else
        memset(carried, 0, sizeof(float) * alive[0] * width);
    long rows = 0;
    for (long step = 0; step < steps; step++) rows += alive[step];
    for (long step = steps - 1, start = rows; step >= 0; step--) {
        start -= alive[step];
        for (long row = 0; row < alive[step];) {
            int tile = even(alive[step] - row);
            WITH_TILE(tile, gru_gradient_tile, width, step == 0, before, start + row, of_states,
                      scratch, new, hidden, sigmoids, of_gates, of_hidden, carried + row * width)
            row += tile;
        }
    }
    memset(of_bias, 0, sizeof(float) * all_gates);
    for (long row = 0; row < rows; row++)
        for (int c = 0; c < all_gates; c++) of_bias[c] += of_hidden[row * all_gates + c];
}
