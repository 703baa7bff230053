/* Products too small for the kernels of libraries, by tiles of rows. */
#ifndef TILES_H
#define TILES_H

#include "vectors.h"

#define MAX_TILE 12 /* rows at once: enough sums to hide how long a product takes */

/* Calls with the tile's rows as a constant. */
#define WITH_TILE(tile, function, ...)                          \
    switch (tile) {                                             \
        case 1: function(1, __VA_ARGS__); break;                \
        case 2: function(2, __VA_ARGS__); break;                \
        case 4: function(4, __VA_ARGS__); break;                \
        case 6: function(6, __VA_ARGS__); break;                \
        case 8: function(8, __VA_ARGS__); break;                \
        case 10: function(10, __VA_ARGS__); break;              \
        case 12: function(12, __VA_ARGS__); break;              \
    }

/* Adds to each row's sum its numbers times weights, `(inputs, 8)`. */
INLINE void tile_product(const int tile, int inputs, const float *rows, long stride,
                         const float *weights, V *sums) {
    for (int i = 0; i < inputs; i++) {
        V weight = load_floats(weights + LANES * i);
#pragma GCC unroll 12
        for (int row = 0; row < tile; row++) sums[row] += weight * rows[row * stride + i];
    }
}

/* Eight numbers of a map, zero where the mask's are, if there is one. */
INLINE V load_masked(const void *map, const void *mask, long at, const int wide) {
    const V v = load(map, at, wide, LANES);
    return mask ? (V)((I)v & (load(mask, at, wide, LANES) != 0)) : v;
}

/* ReLU of eight numbers plus a bias, if there is one; what is no number stays none. */
INLINE V biased_relu(V v, const float *bias) {
    if (!bias) return v;
    v += load_floats(bias);
    return choose(v <= 0, all(0), v);
}

/* One or an even number, for as few kinds of tiles. */
INLINE int even(long rows) { return rows == 1 ? 1 : rows < MAX_TILE ? rows & ~1 : MAX_TILE; }

/* Rows of each tile, when tiles may overlap: as few tiles as can be, as small as can be. */
INLINE int tile_of(int rows) {
    int tiles = (rows + MAX_TILE - 1) / MAX_TILE, each = (rows + tiles - 1) / tiles;
    return each + (each & 1) <= rows ? each + (each & 1) : even(rows);
}

#endif
