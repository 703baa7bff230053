/* Any other layer, after its convolution: normalising, pooling and ReLU. */
#include "vectors.h"

INLINE void moments_block(int count, int c, const int wide, long image, const void *map, Map m,
                          double *sums, double *squares) {
    const int pixels = m.rows * m.columns;
    const long start = image * pixels * m.channels + c;
    V sum[4] = {{0}}, square[4] = {{0}}; /* of every fourth pixel: none waits for the one before */
    for (int i = 0; i < pixels; i += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            if (i + k < pixels) {
                V x = load(map, start + (long)(i + k) * m.channels, wide, count);
                sum[k] += x;
                square[k] += x * x;
            }
    V all_sums = sum[0] + sum[1] + sum[2] + sum[3];
    V all_squares = square[0] + square[1] + square[2] + square[3];
    for (int i = 0; i < count; i++) {
        sums[c + i] += all_sums[i];
        squares[c + i] += all_squares[i];
    }
}

INLINE void map_moments_as(const int wide, long images, const void *map, Map m, double *sums,
                           double *squares) {
    for (long image = 0; image < images; image++)
        BY_BLOCK(m.channels, moments_block, wide, image, map, m, sums, squares)
}

/* Sums of all numbers and of their squares, by channel. Adds to both. */
void map_moments(long images, const void *map, int wide, Map m, double *sums, double *squares) {
    if (wide)
        map_moments_as(1, images, map, m, sums, squares);
    else
        map_moments_as(0, images, map, m, sums, squares);
}

INLINE void pool_block(int count, int c, const int pool, const int wide, long corner, long to,
                       const void *map, Map m, const float *gain, const float *shift, void *out,
                       uint8_t *choice, void *values) {
    V a = load_floats(gain + c), b = load_floats(shift + c);
    V value = load(map, corner + c, wide, count);
    V best = value * a + b;
    I chosen = {0};
#pragma GCC unroll 16
    for (int place = 1; place < pool * pool; place++) {
        long at = corner + c + (place / pool * m.columns + place % pool) * m.channels;
        V other = load(map, at, wide, count);
        take_larger(&best, &chosen, other * a + b, place);
        value = choose(chosen == place, other, value);
    }
    relu(&best, &chosen);
    store(out, to + c, wide, count, best);
    store(values, to + c, wide, count, value);
    store_choice(choice + to + c, count, chosen);
}

INLINE void pool_forward_as(const int pool, const int wide, long images, const void *map, Map m,
                            const float *gain, const float *shift, void *out, uint8_t *choice,
                            void *values) {
    const int rows = m.rows / pool, columns = m.columns / pool;
    long to = 0;
    for (long image = 0; image < images; image++)
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++, to += m.channels) {
                long corner = ((image * m.rows + y * pool) * m.columns + x * pool) * m.channels;
                BY_BLOCK(m.channels, pool_block, pool, wide, corner, to, map, m, gain, shift, out,
                         choice, values)
            }
}

/* ReLU of the largest of a window's numbers, each times gain plus shift. values: those numbers. */
void pool_forward(long images, int pool, const void *map, int wide, Map m, const float *gain,
                  const float *shift, void *out, uint8_t *choice, void *values) {
    WITH_CONSTANTS(pool_forward_as, images, map, m, gain, shift, out, choice, values)
}

INLINE void sums_block(int count, int c, const int wide, long image, const void *gradient,
                       const uint8_t *choice, const void *values, Map m, double *sums,
                       double *products) {
    const long pixels = (long)m.rows * m.columns, start = image * pixels * m.channels + c;
    V sum = {0}, product = {0};
    for (long at = start; at < start + pixels * m.channels; at += m.channels) {
        I alive = load_choice(choice + at, count) != NONE;
        V g = (V)((I)load(gradient, at, wide, count) & alive);
        sum += g;
        product += g * load(values, at, wide, count);
    }
    for (int i = 0; i < count; i++) {
        sums[c + i] += sum[i];
        products[c + i] += product[i];
    }
}

INLINE void pool_backward_sums_as(const int wide, long images, const void *gradient,
                                  const uint8_t *choice, const void *values, Map m, double *sums,
                                  double *products) {
    for (long image = 0; image < images; image++)
        BY_BLOCK(m.channels, sums_block, wide, image, gradient, choice, values, m, sums, products)
}

/* Sums of gradients, and of gradients times the numbers that were chosen, by channel. m: the
 * pooled map. Adds to both. */
void pool_backward_sums(long images, const void *gradient, const uint8_t *choice,
                        const void *values, int wide, Map m, double *sums, double *products) {
    if (wide)
        pool_backward_sums_as(1, images, gradient, choice, values, m, sums, products);
    else
        pool_backward_sums_as(0, images, gradient, choice, values, m, sums, products);
}

INLINE void window_gradient_block(int count, int c, const int pool, const int wide, long corner,
                                  long from, const void *gradient, const uint8_t *choice,
                                  const void *map, Map m, const float *gain, const float *slope,
                                  const float *offset, void *of_map) {
    V a = load_floats(slope + c), b = load_floats(offset + c);
    I chosen = load_choice(choice + from + c, count);
    V own = load(gradient, from + c, wide, count) * load_floats(gain + c);
#pragma GCC unroll 16
    for (int place = 0; place < pool * pool; place++) {
        long at = corner + c + (place / pool * m.columns + place % pool) * m.channels;
        V g = load(map, at, wide, count) * a + b + (V)((I)own & (chosen == place));
        store(of_map, at, wide, count, g);
    }
}

/* Of what no window has. */
INLINE void rest_gradient_block(int count, int c, const int wide, long at, const void *map,
                                const float *slope, const float *offset, void *of_map) {
    V g = load(map, at + c, wide, count) * load_floats(slope + c) + load_floats(offset + c);
    store(of_map, at + c, wide, count, g);
}

INLINE void pool_backward_as(const int pool, const int wide, long images, const void *gradient,
                             const uint8_t *choice, const void *map, Map m, const float *gain,
                             const float *slope, const float *offset, void *of_map) {
    const int rows = m.rows / pool, columns = m.columns / pool;
    for (long image = 0; image < images; image++) {
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++) {
                long corner = ((image * m.rows + y * pool) * m.columns + x * pool) * m.channels;
                long from = ((image * rows + y) * columns + x) * m.channels;
                BY_BLOCK(m.channels, window_gradient_block, pool, wide, corner, from, gradient,
                         choice, map, m, gain, slope, offset, of_map)
            }
        for (int y = 0; y < m.rows; y++)
            for (int x = y < rows * pool ? columns * pool : 0; x < m.columns; x++) {
                long at = ((image * m.rows + y) * m.columns + x) * m.channels;
                BY_BLOCK(m.channels, rest_gradient_block, wide, at, map, slope, offset, of_map)
            }
    }
}

/* The gradient of the map: a number's own times gain, where it was chosen, plus slope times the
 * number plus offset. */
void pool_backward(long images, int pool, const void *gradient, const uint8_t *choice,
                   const void *map, int wide, Map m, const float *gain, const float *slope,
                   const float *offset, void *of_map) {
    WITH_CONSTANTS(pool_backward_as, images, gradient, choice, map, m, gain, slope, offset, of_map)
}
