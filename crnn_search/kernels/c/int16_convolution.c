/* Convolutions of eight channels to eight, as in convolution.c, in whole numbers. Each image's map
 * has a scale of its own. */
#include "int16.h"
#include "tiles.h"

#define MAP_MOST 8191.0f /* of a map's numbers: thirteen bits, the rest is for weights */

/* Weights `(k, k, 8, 8)`, input before output, as pairs of inputs: `(k, k, 4, 8)`. down: by output,
 * back from sums of products. */
static void pack_taps(int taps, const float *weights, int32_t *pairs, float *down) {
    V sums = {0}, most, up;
    I bits = {0};
    for (int i = 0; i < taps * LANES; i++) {
        const I size = size_bits(load_floats(weights + i * LANES));
        sums += (V)size;
        bits = larger(bits, size);
    }
    most = (V)bits;
    /* Rounding may add half to each of an output's weights. */
    const float limit = LIMIT / (MAP_MOST + 1) - 64.0f - 0.5f * LANES * taps;
    for (int k = 0; k < LANES; k++) {
        const int by_most = sums[k] * MOST < most[k] * limit;
        const Scale scale = by_most ? scale_of(most[k], MOST) : scale_of(sums[k], limit);
        up[k] = scale.up;
        down[k] = scale.down;
    }
    for (int i = 0; i < taps * LANES; i += 2)
        store_pairs(pairs + i / 2 * LANES, paired(whole(load_floats(weights + i * LANES) * up),
                                                  whole(load_floats(weights + (i + 1) * LANES) * up)));
}

/* The scale of one image's numbers, of eight channels. */
INLINE Scale map_scale(int wide, const void *map, long start, long places, float limit) {
    I most = {0};
    for (long i = 0; i < places; i++)
        most = larger(most, size_bits(load(map, start + i * LANES, wide, LANES)));
    return scale_of(largest(most), limit);
}

/* One image's map, zeros around it; the return value takes its numbers back. */
static float pad_whole(int wide, const void *map, const void *mask, long image, int rows, int columns, int before,
                       int padded_rows, int padded_columns, int16_t *padded) {
    const long start = image * rows * columns * LANES;
    const Scale scale = map_scale(wide, map, start, rows * columns, MAP_MOST);
    memset(padded, 0, sizeof(int16_t) * padded_rows * padded_columns * LANES);
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++)
            store_whole(
                padded + ((y + before) * padded_columns + x + before) * LANES,
                whole(load_masked(map, mask, start + (y * columns + x) * LANES, wide) * scale.up));
    return scale.down;
}

/* Sums of some places beside one another. */
INLINE void tile_sums(const int tile, int kernel, int columns, const int16_t *corner,
                      const int32_t *weights, int32_t *found) {
    I sums[MAX_TILE];
#pragma GCC unroll 12
    for (int i = 0; i < tile; i++) sums[i] = (I){0};
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel * LANES; j += 2, weights += LANES) {
            I weight = load_pairs(weights);
            KEEP(weight);
            const int16_t *pair = corner + (i * columns) * LANES + j;
#pragma GCC unroll 12
            for (int k = 0; k < tile; k++) {
                sums[k] = add_pairs(sums[k], all_pairs(pair + k * LANES), weight);
                KEEP_SUM(sums[k]);
            }
        }
#pragma GCC unroll 12
    for (int i = 0; i < tile; i++) store_pairs(found + i * LANES, sums[i]);
}

/* As `conv`. pairs: room for the weights. */
void int16_conv(long images, const void *map, int wide, const void *mask, Map m, int kernel,
                int before, int after, const float *weights, const float *bias, void *out,
                int16_t *padded, int32_t *pairs) {
    const int rows = m.rows + before + after, columns = m.columns + before + after;
    const int high = rows - kernel + 1, across = columns - kernel + 1, tile = tile_of(across);
    int32_t found[MAX_TILE * LANES];
    float by_output[LANES];
    pack_taps(kernel * kernel, weights, pairs, by_output);
    for (long image = 0; image < images; image++) {
        const float by_image =
            pad_whole(wide, map, mask, image, m.rows, m.columns, before, rows, columns, padded);
        const V down = load_floats(by_output) * by_image;
        for (int y = 0; y < high; y++)
            for (int x = 0; x < across; x += tile) {
                const int first = x + tile <= across ? x : across - tile; /* some are made twice */
                const int16_t *corner = padded + (y * columns + first) * LANES;
                const long at = ((image * high + y) * across + first) * LANES;
                WITH_TILE(tile, tile_sums, kernel, columns, corner, pairs, found)
                for (int i = 0; i < tile; i++) {
                    const V sum = __builtin_convertvector(load_pairs(found + i * LANES), V) * down;
                    store(out, at + (long)i * LANES, wide, LANES, biased_relu(sum, bias));
                }
            }
    }
}

/* One image's map as pairs of places: each number with the one right of it. Adds to sums by channel. */
static float pad_pairs(int wide, const void *map, const void *mask, long image, int rows,
                       int columns, int before, int padded_rows, int padded_columns, float most,
                       int32_t *padded, V *sums) {
    V sum = {0};
    const long start = image * rows * columns * LANES;
    const Scale scale = map_scale(wide, map, start, rows * columns, most);
    memset(padded, 0, sizeof(int32_t) * padded_rows * padded_columns * LANES);
    for (int y = 0; y < rows; y++) {
        int32_t *to = padded + ((y + before) * padded_columns + before) * LANES;
        I left = {0};
        for (int x = 0; x < columns; x++) {
            V v = load_masked(map, mask, start + (y * columns + x) * LANES, wide);
            I own = whole(v * scale.up);
            sum += v;
            if (x + before) store_pairs(to + (x - 1) * LANES, paired(left, own));
            left = own;
        }
        store_pairs(to + (columns - 1) * LANES, paired(left, (I){0}));
    }
    *sums += sum;
    return scale.down;
}

INLINE void weight_sums(int high, int across, int columns, const int32_t *taps, const int32_t *own,
                        int32_t *found) {
    I sums[LANES];
#pragma GCC unroll 8
    for (int k = 0; k < LANES; k++) sums[k] = (I){0};
    for (int y = 0; y < high; y++, taps += columns * LANES, own += across * LANES)
        for (int x = 0; x < across; x += 2) {
            I here = load_pairs(own + x * LANES);
            KEEP(here);
#pragma GCC unroll 8
            for (int k = 0; k < LANES; k++) {
                sums[k] = add_pairs(sums[k], all_pairs(taps + x * LANES + k), here);
                KEEP_SUM(sums[k]);
            }
        }
#pragma GCC unroll 8
    for (int k = 0; k < LANES; k++) store_pairs(found + k * LANES, sums[k]);
}

/* As `conv_weights`. */
void int16_conv_weights(long images, const void *map, int wide, Map m, const void *gradient,
                        const void *mask, int kernel, int before, int after, float *of_weights,
                        double *of_bias, int32_t *padded, int32_t *own) {
    const int rows = m.rows + before + after, columns = m.columns + before + after;
    const int high = rows - kernel + 1, across = columns - kernel + 1;
    const float by_count = floorf(sqrtf(LIMIT / (high * across))) - 1.0f;
    const float most = by_count < MOST ? by_count : MOST;
    int32_t found[LANES * LANES];
    for (long image = 0; image < images; image++) {
        V unused = {0}, sums = {0};
        const float down = pad_pairs(wide, map, NULL, image, m.rows, m.columns, before, rows,
                                     columns, most, padded, &unused) *
                           pad_pairs(wide, gradient, mask, image, high, across, 0, high, across,
                                     most, own, &sums);
        for (int k = 0; k < LANES; k++) of_bias[k] += sums[k];
        float *to = of_weights;
        for (int i = 0; i < kernel; i++)
            for (int j = 0; j < kernel; j++) {
                weight_sums(high, across, columns, padded + (i * columns + j) * LANES, own, found);
                for (int k = 0; k < LANES * LANES; k += LANES, to += LANES) {
                    const V sum = __builtin_convertvector(load_pairs(found + k), V);
                    store_floats(to, load_floats(to) + sum * down);
                }
            }
    }
}
