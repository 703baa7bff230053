/* Convolutions of eight channels to eight. */
#include "tiles.h"

/* One image's map of eight channels as float32, zeros around it, and where the mask has zeros, if there
 * is one. Returns the sum by channel. */
INLINE V pad_map(int wide, const void *map, const void *mask, long image, int rows, int columns,
                 int before, int wide_rows, int wide_columns, float *padded) {
    V sum = {0};
    memset(padded, 0, sizeof(float) * wide_rows * wide_columns * LANES);
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++) {
            const long at = ((image * rows + y) * columns + x) * LANES;
            const V v = load_masked(map, mask, at, wide);
            sum += v;
            store_floats(padded + ((y + before) * wide_columns + x + before) * LANES, v);
        }
    return sum;
}

INLINE void conv_tile(const int tile, int wide, int kernel, int columns, const float *corner,
                      const float *weights, const float *bias, void *out, long at) {
    V sums[MAX_TILE];
    for (int i = 0; i < tile; i++) sums[i] = all(0);
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel; j++, weights += LANES * LANES)
            tile_product(tile, LANES, corner + (i * columns + j) * LANES, LANES, weights, sums);
    for (int i = 0; i < tile; i++)
        store(out, at + (long)i * LANES, wide, LANES, biased_relu(sums[i], bias));
}

/* Correlates a map of eight channels, masked, with a kernel, eight channels out. weights: `(k, k, 8,
 * 8)`, input before output. bias: what is added before ReLU; without there is none of both. padded:
 * room for one padded image. */
void conv(long images, const void *map, int wide, const void *mask, Map m, int kernel, int before,
          int after, const float *weights, const float *bias, void *out, float *padded) {
    const int rows = m.rows + before + after, columns = m.columns + before + after;
    const int high = rows - kernel + 1, across = columns - kernel + 1, tile = tile_of(across);
    for (long image = 0; image < images; image++) {
        pad_map(wide, map, mask, image, m.rows, m.columns, before, rows, columns, padded);
        for (int y = 0; y < high; y++)
            for (int x = 0; x < across; x += tile) {
                int first = x + tile <= across ? x : across - tile; /* some are made twice */
                const float *corner = padded + (y * columns + first) * LANES;
                long at = ((image * high + y) * across + first) * LANES;
                WITH_TILE(tile, conv_tile, wide, kernel, columns, corner, weights, bias, out, at)
            }
    }
}

/* The gradients of such weights and of the bias. mask: of the gradient. Adds to both. own: room for the
 * gradient of one image. */
void conv_weights(long images, const void *map, int wide, Map m, const void *gradient,
                  const void *mask, int kernel, int before, int after, float *of_weights,
                  double *of_bias, float *padded, float *own) {
    const int rows = m.rows + before + after, columns = m.columns + before + after;
    const int high = rows - kernel + 1, across = columns - kernel + 1;
    for (long image = 0; image < images; image++) {
        pad_map(wide, map, NULL, image, m.rows, m.columns, before, rows, columns, padded);
        const V sum = pad_map(wide, gradient, mask, image, high, across, 0, high, across, own);
        for (int k = 0; k < LANES; k++) of_bias[k] += sum[k];
        float *to = of_weights;
        for (int i = 0; i < kernel; i++)
            for (int j = 0; j < kernel; j++, to += LANES * LANES) {
                V sums[LANES];
                for (int k = 0; k < LANES; k++) sums[k] = load_floats(to + LANES * k);
                for (int y = 0; y < high; y++) {
                    const float *taps = padded + ((y + i) * columns + j) * LANES;
                    const float *row = own + y * across * LANES;
                    for (int x = 0; x < across; x++) {
                        V here = load_floats(row + x * LANES);
#pragma GCC unroll 8
                        for (int k = 0; k < LANES; k++) sums[k] += here * taps[x * LANES + k];
                    }
                }
                for (int k = 0; k < LANES; k++) store_floats(to + LANES * k, sums[k]);
            }
    }
}
