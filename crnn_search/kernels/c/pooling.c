/* Every layer but the first, after its convolution: batch norm, pooling and ReLU. */
#include "vectors.h"

INLINE void moments_block(int count, int c, const int is_f32, long image, const void *maps, Map m,
                          double *sums, double *squares) {
    const int pixels = m.rows * m.columns;
    const long start = image * pixels * m.channels + c;
    const V shift = load(maps, start, is_f32, count);
    V sum[4] = {{0}}, square[4] = {{0}}; /* four independent sums hide the latency of an addition */
    for (int i = 0; i < pixels; i += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            if (i + k < pixels) {
                V x = load(maps, start + (long)(i + k) * m.channels, is_f32, count) - shift;
                sum[k] += x;
                square[k] += x * x;
            }
    add_shifted(count, pixels, shift, sum[0] + sum[1] + sum[2] + sum[3],
                square[0] + square[1] + square[2] + square[3], sums + c, squares + c);
}

INLINE void map_moments_as(const int is_f32, long images, const void *maps, Map m, double *sums,
                           double *squares) {
    for (long image = 0; image < images; image++)
        BY_BLOCK(m.channels, moments_block, is_f32, image, maps, m, sums, squares)
}

/* Sums of values, `(channels,)`, and of their squares, by channel. Adds to both. */
void map_moments(long images, int rows, int columns, int channels, int is_f32, const void *maps,
                 double *sums, double *squares) {
    const Map m = {rows, columns, channels};
    if (is_f32)
        map_moments_as(1, images, maps, m, sums, squares);
    else
        map_moments_as(0, images, maps, m, sums, squares);
}

INLINE void pool_block(int count, int c, const int pool, const int is_f32, long corner, long to,
                       const void *maps, Map m, const float *scale, const float *shift,
                       void *result, uint8_t *argmax, void *selected) {
    V a = load_f32(scale + c), b = load_f32(shift + c);
    V own = load(maps, corner + c, is_f32, count);
    V max = own * a + b;
    I best = {0};
#pragma GCC unroll 16
    for (int position = 1; position < pool * pool; position++) {
        long at = corner + c + (position / pool * m.columns + position % pool) * m.channels;
        V value = load(maps, at, is_f32, count);
        update_max(&max, &best, value * a + b, position);
        own = blend(best == position, value, own);
    }
    relu(&max, &best);
    store(result, to + c, is_f32, count, max);
    store(selected, to + c, is_f32, count, own);
    store_argmax(argmax + to + c, count, best);
}

INLINE void pool_forward_as(const int pool, const int is_f32, long images, const void *maps, Map m,
                            const float *scale, const float *shift, void *result, uint8_t *argmax,
                            void *selected) {
    const int rows = m.rows / pool, columns = m.columns / pool;
    long to = 0;
    for (long image = 0; image < images; image++)
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++, to += m.channels) {
                long corner = ((image * m.rows + y * pool) * m.columns + x * pool) * m.channels;
                BY_BLOCK(m.channels, pool_block, pool, is_f32, corner, to, maps, m, scale, shift,
                         result, argmax, selected)
            }
}

/* result: ReLU of each window's maximum of values times scale plus shift. selected: the value of
 * the map at argmax. */
void pool_forward(long images, int pool, int rows, int columns, int channels, int is_f32,
                  const void *maps, const float *scale, const float *shift, void *result,
                  uint8_t *argmax, void *selected) {
    const Map m = {rows, columns, channels};
    WITH_POOL_AND_DTYPE(pool_forward_as, images, maps, m, scale, shift, result, argmax, selected)
}

INLINE void sums_block(int count, int c, const int is_f32, long image, const void *grad,
                       const uint8_t *argmax, const void *selected, Map m, double *sums,
                       double *products) {
    const long pixels = (long)m.rows * m.columns, start = image * pixels * m.channels + c;
    V sum = {0}, product = {0};
    for (long at = start; at < start + pixels * m.channels; at += m.channels) {
        I passed = load_argmax(argmax + at, count) != ZEROED;
        V g = (V)((I)load(grad, at, is_f32, count) & passed);
        sum += g;
        product += g * load(selected, at, is_f32, count);
    }
    for (int i = 0; i < count; i++) {
        sums[c + i] += sum[i];
        products[c + i] += product[i];
    }
}

INLINE void pool_backward_sums_as(const int is_f32, long images, const void *grad,
                                  const uint8_t *argmax, const void *selected, Map m, double *sums,
                                  double *products) {
    for (long image = 0; image < images; image++)
        BY_BLOCK(m.channels, sums_block, is_f32, image, grad, argmax, selected, m, sums, products)
}

/* Sums of the gradients that ReLU let pass, and of those times the selected values, by channel.
 * rows, columns: of the pooled map. Adds to both. */
void pool_backward_sums(long images, int rows, int columns, int channels, int is_f32,
                        const void *grad, const uint8_t *argmax, const void *selected,
                        double *sums, double *products) {
    const Map m = {rows, columns, channels};
    if (is_f32)
        pool_backward_sums_as(1, images, grad, argmax, selected, m, sums, products);
    else
        pool_backward_sums_as(0, images, grad, argmax, selected, m, sums, products);
}

INLINE void window_grad_block(int count, int c, const int pool, const int is_f32, long corner,
                              long from, const void *grad, const uint8_t *argmax, const void *maps,
                              Map m, const float *scale, const float *slope, const float *offset,
                              void *grad_maps) {
    V a = load_f32(slope + c), b = load_f32(offset + c);
    I best = load_argmax(argmax + from + c, count);
    V own = load(grad, from + c, is_f32, count) * load_f32(scale + c);
#pragma GCC unroll 16
    for (int position = 0; position < pool * pool; position++) {
        long at = corner + c + (position / pool * m.columns + position % pool) * m.channels;
        V g = load(maps, at, is_f32, count) * a + b + (V)((I)own & (best == position));
        store(grad_maps, at, is_f32, count, g);
    }
}

/* The gradient of a pixel that no window covers. */
INLINE void uncovered_grad_block(int count, int c, const int is_f32, long at, const void *maps,
                                 const float *slope, const float *offset, void *grad_maps) {
    V g = load(maps, at + c, is_f32, count) * load_f32(slope + c) + load_f32(offset + c);
    store(grad_maps, at + c, is_f32, count, g);
}

INLINE void pool_backward_as(const int pool, const int is_f32, long images, const void *grad,
                             const uint8_t *argmax, const void *maps, Map m, const float *scale,
                             const float *slope, const float *offset, void *grad_maps) {
    const int rows = m.rows / pool, columns = m.columns / pool;
    for (long image = 0; image < images; image++) {
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++) {
                long corner = ((image * m.rows + y * pool) * m.columns + x * pool) * m.channels;
                long from = ((image * rows + y) * columns + x) * m.channels;
                BY_BLOCK(m.channels, window_grad_block, pool, is_f32, corner, from, grad, argmax,
                         maps, m, scale, slope, offset, grad_maps)
            }
        for (int y = 0; y < m.rows; y++)
            for (int x = y < rows * pool ? columns * pool : 0; x < m.columns; x++) {
                long at = ((image * m.rows + y) * m.columns + x) * m.channels;
                BY_BLOCK(m.channels, uncovered_grad_block, is_f32, at, maps, slope, offset,
                         grad_maps)
            }
    }
}

/* grad_maps: scale times the gradient of the pooled value at its argmax, plus slope times the
 * map's value plus offset. */
void pool_backward(long images, int pool, int rows, int columns, int channels, int is_f32,
                   const void *grad, const uint8_t *argmax, const void *maps, const float *scale,
                   const float *slope, const float *offset, void *grad_maps) {
    const Map m = {rows, columns, channels};
    WITH_POOL_AND_DTYPE(pool_backward_as, images, grad, argmax, maps, m, scale, slope, offset,
                        grad_maps)
}
