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

INLINE void gru_tile(const int tile, int width, int first, const float *before, long row,
                     const float *gates, const float *weights, const float *bias, float *hidden,
                     float *sigmoids, float *new, float *states) {
    const int all_gates = 3 * width;
    for (int c = 0; c < all_gates; c += LANES) {
        V sums[MAX_TILE];
        for (int i = 0; i < tile; i++) sums[i] = load_floats(bias + c);
        if (!first) tile_product(tile, width, before, width, weights + (long)c * width, sums);
        for (int i = 0; i < tile; i++)
            store(hidden, (row + i) * all_gates + c, 1, all_gates - c, sums[i]);
    }
    for (int i = 0; i < tile; i++)
        for (int c = 0; c < width; c += LANES) {
            int count = width - c;
            long gate = (row + i) * all_gates + c, at = (row + i) * width + c;
            V r = sigmoid(FLOATS(gates, gate, count) + FLOATS(hidden, gate, count));
            V u = sigmoid(FLOATS(gates, gate + width, count) + FLOATS(hidden, gate + width, count));
            V n = hyperbolic_tangent(FLOATS(gates, gate + 2 * width, count) +
                                     r * FLOATS(hidden, gate + 2 * width, count));
            V was = first ? all(0) : FLOATS(before, i * width + c, count);
            store(sigmoids, 2 * (row + i) * width + c, 1, count, r);
            store(sigmoids, 2 * (row + i) * width + width + c, 1, count, u);
            store(new, at, 1, count, n);
            store(states, at, 1, count, n + u * (was - n));
        }
}

/* alive: rows of each step, falling. gates, hidden: `(N, 3H)`. weights: `(3H / 8, H, 8)`. bias:
 * `(3H)`, filled to a multiple of eight. sigmoids: `(N, 2H)`. new, states: `(N, H)`. */
void gru_forward(long steps, const int64_t *alive, int width, const float *gates,
                 const float *weights, const float *bias, float *hidden, float *sigmoids,
                 float *new, float *states) {
    long start = 0;
    for (long step = 0; step < steps; step++) {
        const float *before = step ? states + (start - alive[step - 1]) * width : states;
        for (long row = 0; row < alive[step];) {
            int tile = even(alive[step] - row);
            WITH_TILE(tile, gru_tile, width, step == 0, before + row * width, start + row, gates,
                      weights, bias, hidden, sigmoids, new, states)
            row += tile;
        }
        start += alive[step];
    }
}

INLINE void gru_gradient_tile(const int tile, int width, int first, const float *before, long row,
                              const float *of_states, const float *weights, const float *new,
                              const float *hidden, const float *sigmoids, float *of_hidden,
                              float *of_new, float *carried) {
    const int all_gates = 3 * width;
    for (int i = 0; i < tile; i++)
        for (int c = 0; c < width; c += LANES) {
            int count = width - c;
            long gate = (row + i) * all_gates + c, at = (row + i) * width + c;
            V r = FLOATS(sigmoids, 2 * (row + i) * width + c, count);
            V u = FLOATS(sigmoids, 2 * (row + i) * width + width + c, count);
            V n = FLOATS(new, at, count);
            V was = first ? all(0) : FLOATS(before, i * width + c, count);
            V state = FLOATS(carried, i * width + c, count) + FLOATS(of_states, at, count);
            V of_n = state * (1.0f - u) * (1.0f - n * n);
            V of_r = of_n * FLOATS(hidden, gate + 2 * width, count) * r * (1.0f - r);
            store(of_new, at, 1, count, of_n);
            store(of_hidden, gate, 1, count, of_r);
            store(of_hidden, gate + width, 1, count, state * (was - n) * u * (1.0f - u));
            store(of_hidden, gate + 2 * width, 1, count, of_n * r);
            store(carried, i * width + c, 1, count, state * u);
        }
    if (first) return;
    for (int c = 0; c < width; c += LANES) {
        V sums[MAX_TILE];
        for (int i = 0; i < tile; i++) sums[i] = FLOATS(carried, i * width + c, width - c);
        tile_product(tile, all_gates, of_hidden + row * all_gates, all_gates,
                     weights + (long)c * all_gates, sums);
        for (int i = 0; i < tile; i++) store(carried, i * width + c, 1, width - c, sums[i]);
    }
}

/* weights: `(H / 8, 3H, 8)`. carried: `(B, H)`, at first the gradient of the last states. */
void gru_backward(long steps, const int64_t *alive, int width, const float *of_states,
                  const float *weights, const float *states, const float *new, const float *hidden,
                  const float *sigmoids, float *of_hidden, float *of_new, float *carried) {
    long start = 0;
    for (long step = 0; step < steps; step++) start += alive[step];
    for (long step = steps - 1; step >= 0; step--) {
        start -= alive[step];
        const float *before = step ? states + (start - alive[step - 1]) * width : states;
        for (long row = 0; row < alive[step];) {
            int tile = even(alive[step] - row);
            WITH_TILE(tile, gru_gradient_tile, width, step == 0, before + row * width, start + row,
                      of_states, weights, new, hidden, sigmoids, of_hidden, of_new,
                      carried + row * width)
            row += tile;
        }
    }
}
