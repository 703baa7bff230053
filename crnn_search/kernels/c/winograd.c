/* Convolutions with 3 × 3 kernels by minimal filtering, F(4 × 4, 3 × 3): Lavin and Gray,
 * arXiv:1509.09308; maps in float32. A tile of 6 × 6 values is transformed to 36 others, `points`;
 * at each point the channels are multiplied as in a matrix product, and the 36 products are
 * transformed to a tile of 4 × 4 results, with a quarter of the multiplications. All is linear, so
 * that the gradient of the weights uses the transposed transforms. */
#include "vectors.h"

#define OUT 4
#define IN 6
#define POINTS (IN * IN)
#define ROWS 6           /* rows of a product at once, of two times eight columns */
#define TILES_AT_ONCE 32 /* about: their points fit in the second-level cache; of several images,
                            or of a band of one */

/* Maps and results of one convolution. Channels are rounded up to multiples of eight. Planes of
 * points are a little apart, as they would otherwise fall into the same lines of the first-level
 * cache. */
typedef struct {
    int rows, columns, channels; /* of the map */
    int before;                  /* rows and columns of padding before it */
    int out_rows, out_columns, outputs;
    int down, along;             /* tiles of an image */
    int images, band;            /* images at once, and rows of their tiles */
    int in_lanes, out_lanes;
    long padded, padded_grad;    /* floats of a padded band and of its gradient */
    long in_plane, out_plane;
} Plan;

INLINE Plan plan_of(int rows, int columns, int channels, int before, int after, int outputs) {
    Plan p = {.rows = rows, .columns = columns, .channels = channels, .before = before};
    p.out_rows = rows + before + after - 2;
    p.out_columns = columns + before + after - 2;
    p.outputs = outputs;
    p.down = (p.out_rows + OUT - 1) / OUT;
    p.along = (p.out_columns + OUT - 1) / OUT;
    const int tiles = p.down * p.along;
    const int bands = (tiles + TILES_AT_ONCE - 1) / TILES_AT_ONCE;
    p.images = bands == 1 ? TILES_AT_ONCE / tiles : 1;
    p.band = (p.down + bands - 1) / bands;
    p.in_lanes = round_up(channels);
    p.out_lanes = round_up(outputs);
    p.padded = (long)(OUT * p.band + 2) * (OUT * p.along + 2) * p.in_lanes;
    p.padded_grad = (long)OUT * p.band * OUT * p.along * p.out_lanes;
    p.in_plane = (long)p.images * p.band * p.along * p.in_lanes + 2 * LANES;
    p.out_plane = (long)p.images * p.band * p.along * p.out_lanes + 2 * LANES;
    return p;
}

/* Scratch memory: one padded band or gradient, then the planes of both sides. */
INLINE long band_floats(Plan p) { return p.padded > p.padded_grad ? p.padded : p.padded_grad; }

INLINE float *scratch_of(Plan p) {
    return allocate(band_floats(p) + POINTS * (p.in_plane + p.out_plane));
}

/* A band of an image with padding around it, its channels rounded up. before: columns of padding.
 * first: the row of the image that is the band's first, negative in the padding above it. */
INLINE void pad_band(const float *maps, long image, int rows, int columns, int channels,
                     int before, int first, int padded_rows, int padded_columns, float *padded) {
    const int lanes = round_up(channels);
    memset(padded, 0, sizeof(float) * padded_rows * padded_columns * lanes);
    const int begin = first < 0 ? 0 : first;
    const int end = first + padded_rows < rows ? first + padded_rows : rows;
    for (int y = begin; y < end; y++) {
        const float *from = maps + (image * rows + y) * columns * channels;
        float *row = padded + ((long)(y - first) * padded_columns + before) * lanes;
        if (lanes == channels) {
            memcpy(row, from, sizeof(float) * columns * channels);
            continue;
        }
        for (int x = 0; x < columns; x++)
            for (int c = 0; c < channels; c += LANES)
                store_f32(row + (long)x * lanes + c,
                          load(from, (long)x * channels + c, 1, channels - c));
    }
}

/* A row or column of a tile to points. */
INLINE void to_points(const V *d, V *t) {
    const V even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
    const V half = d[4] - d[2], rest = 2.0f * (d[3] - d[1]);
    t[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    t[1] = even + odd;
    t[2] = even - odd;
    t[3] = half + rest;
    t[4] = half - rest;
    t[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

/* Points to a row or column of results. */
INLINE void to_results(const V *m, V *y) {
    const V sum = m[1] + m[2], gap = m[1] - m[2];
    const V far_sum = m[3] + m[4], far_gap = m[3] - m[4];
    y[0] = m[0] + sum + far_sum;
    y[1] = gap + 2.0f * far_gap;
    y[2] = sum + 4.0f * far_sum;
    y[3] = gap + 8.0f * far_gap + m[5];
}

/* The transpose of `to_results`: gradients of results to those of points. */
INLINE void from_results(const V *y, V *m) {
    const V even = y[0] + y[2], odd = y[1] + y[3];
    const V far_even = y[0] + 4.0f * y[2], far_odd = 2.0f * y[1] + 8.0f * y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = far_even + far_odd;
    m[4] = far_even - far_odd;
    m[5] = y[3];
}

/* All tiles of a padded band; the points of tile t start at points + t * in_lanes. */
INLINE void tiles_to_points(Plan p, int band, const float *padded, float *points) {
    const long row = (long)(OUT * p.along + 2) * p.in_lanes;
    for (int i = 0; i < band; i++)
        for (int j = 0; j < p.along; j++, points += p.in_lanes)
            for (int c = 0; c < p.in_lanes; c += LANES) {
                const float *corner = padded + OUT * i * row + (long)OUT * j * p.in_lanes + c;
                V t[POINTS], column[IN], transformed[IN];
#pragma GCC unroll 6
                for (int x = 0; x < IN; x++) {
#pragma GCC unroll 6
                    for (int y = 0; y < IN; y++)
                        column[y] = load_f32(corner + y * row + (long)x * p.in_lanes);
                    to_points(column, transformed);
#pragma GCC unroll 6
                    for (int y = 0; y < IN; y++) t[y * IN + x] = transformed[y];
                }
#pragma GCC unroll 6
                for (int y = 0; y < IN; y++) {
                    to_points(t + y * IN, transformed);
#pragma GCC unroll 6
                    for (int x = 0; x < IN; x++)
                        store_f32(points + (y * IN + x) * p.in_plane + c, transformed[x]);
                }
            }
}

/* A row of tiles to a strip: four rows of results, `along` tiles long. */
INLINE void points_to_strip(Plan p, const float *points, float *strip) {
    const long row = (long)OUT * p.along * p.out_lanes;
    for (int j = 0; j < p.along; j++, points += p.out_lanes)
        for (int c = 0; c < p.out_lanes; c += LANES) {
            float *to = strip + (long)OUT * j * p.out_lanes + c;
            V t[OUT * IN];
#pragma GCC unroll 6
            for (int x = 0; x < IN; x++) {
                V column[IN], transformed[OUT];
#pragma GCC unroll 6
                for (int y = 0; y < IN; y++)
                    column[y] = load_f32(points + (y * IN + x) * p.out_plane + c);
                to_results(column, transformed);
#pragma GCC unroll 4
                for (int y = 0; y < OUT; y++) t[y * IN + x] = transformed[y];
            }
#pragma GCC unroll 4
            for (int y = 0; y < OUT; y++) {
                V transformed[OUT];
                to_results(t + y * IN, transformed);
#pragma GCC unroll 4
                for (int x = 0; x < OUT; x++)
                    store_f32(to + y * row + (long)x * p.out_lanes, transformed[x]);
            }
        }
}

/* Adds a strip's values, and their squares, by channel. */
INLINE void add_moments(Plan p, int rows, const float *strip, double *sums, double *squares) {
    for (int c = 0; c < p.outputs; c += LANES) {
        const V shift = load_f32(strip + c);
        V sum[2] = {{0}}, square[2] = {{0}}; /* two sums hide the latency of an addition */
        for (int y = 0; y < rows; y++) {
            const float *row = strip + (long)OUT * p.along * p.out_lanes * y + c;
            for (int x = 0; x < p.out_columns; x += 2)
#pragma GCC unroll 2
                for (int k = 0; k < 2; k++)
                    if (x + k < p.out_columns) {
                        const V v = load_f32(row + (long)(x + k) * p.out_lanes) - shift;
                        sum[k] += v;
                        square[k] += v * v;
                    }
        }
        const int count = p.outputs - c < LANES ? p.outputs - c : LANES;
        add_shifted(count, rows * p.out_columns, shift, sum[0] + sum[1], square[0] + square[1],
                    sums + c, squares + c);
    }
}

/* A band of an image's result, by strips, so that it is written in order: scattered writes of single
 * vectors take three times as long. top: the band's first row of tiles. sums: NULL, or where its
 * moments are added. */
INLINE void points_to_result(Plan p, int top, int band, const float *points, long image,
                             float *result, float *strip, double *sums, double *squares) {
    for (int i = top; i < top + band; i++, points += (long)p.along * p.out_lanes) {
        const int rows = p.out_rows - OUT * i < OUT ? p.out_rows - OUT * i : OUT;
        points_to_strip(p, points, strip);
        if (sums) add_moments(p, rows, strip, sums, squares);
        for (int y = 0; y < rows; y++) {
            const float *row = strip + (long)OUT * p.along * p.out_lanes * y;
            float *to =
                result + (image * p.out_rows + OUT * i + y) * p.out_columns * p.outputs;
            if (p.outputs == p.out_lanes) {
                memcpy(to, row, sizeof(float) * p.out_columns * p.outputs);
                continue;
            }
            for (int x = 0; x < p.out_columns; x++)
                for (int c = 0; c < p.outputs; c += LANES)
                    store(to, (long)x * p.outputs + c, 1, p.outputs - c,
                          load_f32(row + (long)x * p.out_lanes + c));
        }
    }
}

/* The gradients of a band's points, from those of its results. */
INLINE void grad_to_points(Plan p, int band, const float *grad, float *points) {
    const long row = (long)OUT * p.along * p.out_lanes;
    for (int i = 0; i < band; i++)
        for (int j = 0; j < p.along; j++, points += p.out_lanes)
            for (int c = 0; c < p.out_lanes; c += LANES) {
                const float *corner = grad + OUT * i * row + (long)OUT * j * p.out_lanes + c;
                V t[IN * OUT];
#pragma GCC unroll 4
                for (int x = 0; x < OUT; x++) {
                    V column[OUT], transformed[IN];
#pragma GCC unroll 4
                    for (int y = 0; y < OUT; y++)
                        column[y] = load_f32(corner + y * row + (long)x * p.out_lanes);
                    from_results(column, transformed);
#pragma GCC unroll 6
                    for (int y = 0; y < IN; y++) t[y * OUT + x] = transformed[y];
                }
#pragma GCC unroll 6
                for (int y = 0; y < IN; y++) {
                    V transformed[IN];
                    from_results(t + y * OUT, transformed);
#pragma GCC unroll 6
                    for (int x = 0; x < IN; x++)
                        store_f32(points + (y * IN + x) * p.out_plane + c, transformed[x]);
                }
            }
}

/* Rows of left times eight or sixteen columns of right, `(depth, width)`. by_row, by_step: strides
 * of left. add: to the result's values. */
INLINE void product_block(const int rows, const int blocks, const int add, int depth,
                          const float *left, long by_row, long by_step, const float *right,
                          long width, float *result) {
    V sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++)
            sums[r][b] = add ? load_f32(result + r * width + LANES * b) : broadcast(0);
    for (int k = 0; k < depth; k++) {
        V weight[2];
        for (int b = 0; b < blocks; b++) {
            weight[b] = load_f32(right + k * width + LANES * b);
            KEEP(weight[b]);
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int b = 0; b < blocks; b++)
                sums[r][b] += weight[b] * left[r * by_row + k * by_step];
    }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) store_f32(result + r * width + LANES * b, sums[r][b]);
}

INLINE void product_rows(const int rows, const int add, int depth, const float *left, long by_row,
                         long by_step, const float *right, long width, float *result) {
    int c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES)
        product_block(rows, 2, add, depth, left, by_row, by_step, right + c, width, result + c);
    if (c < width)
        product_block(rows, 1, add, depth, left, by_row, by_step, right + c, width, result + c);
}

/* By blocks of nearly equal numbers of rows, six at most. */
INLINE void product(const int add, int rows, int depth, const float *left, long by_row,
                    long by_step, const float *right, long width, float *result) {
    for (int parts = (rows + ROWS - 1) / ROWS; parts; parts--) {
        const int now = (rows + parts - 1) / parts;
#define BLOCK(rows) product_rows(rows, add, depth, left, by_row, by_step, right, width, result)
        switch (now) {
            case 1: BLOCK(1); break;
            case 2: BLOCK(2); break;
            case 3: BLOCK(3); break;
            case 4: BLOCK(4); break;
            case 5: BLOCK(5); break;
            case 6: BLOCK(6); break;
            default: abort();
        }
#undef BLOCK
        rows -= now;
        left += now * by_row;
        result += now * width;
    }
}

INLINE long smaller(long one, long other) { return one < other ? one : other; }

/* Cross-correlates padded maps with kernels. weights: the kernels' points, `(36, channels,
 * output lanes)`. sums, squares: NULL, or where those of the results are added, by channel. */
void winograd(long images, int rows, int columns, int channels, int before, int after, int outputs,
              const float *maps, const float *weights, float *result, double *sums,
              double *squares) {
    const Plan p = plan_of(rows, columns, channels, before, after, outputs);
    float *scratch = scratch_of(p), *points = scratch + band_floats(p);
    float *products = points + POINTS * p.in_plane;
    for (long image = 0; image < images; image += p.images)
        for (int top = 0; top < p.down; top += p.band) {
            const int now = smaller(p.images, images - image);
            const int band = smaller(p.band, p.down - top), tiles = band * p.along;
            for (int n = 0; n < now; n++) {
                pad_band(maps, image + n, rows, columns, channels, before, OUT * top - before,
                         OUT * band + 2, OUT * p.along + 2, scratch);
                tiles_to_points(p, band, scratch, points + (long)n * tiles * p.in_lanes);
            }
            for (int point = 0; point < POINTS; point++)
                product(0, now * tiles, channels, points + point * p.in_plane, p.in_lanes, 1,
                        weights + (long)point * channels * p.out_lanes, p.out_lanes,
                        products + point * p.out_plane);
            for (int n = 0; n < now; n++)
                points_to_result(p, top, band, products + (long)n * tiles * p.out_lanes,
                                 image + n, result, scratch, sums, squares);
        }
    free(scratch);
}

/* The gradient of the weights' points, from that of the results. Adds to grad_weights. */
void winograd_weights(long images, int rows, int columns, int channels, int before, int after,
                      int outputs, const float *maps, const float *grad, float *grad_weights) {
    const Plan p = plan_of(rows, columns, channels, before, after, outputs);
    float *scratch = scratch_of(p), *points = scratch + band_floats(p);
    float *grad_points = points + POINTS * p.in_plane;
    for (long image = 0; image < images; image += p.images)
        for (int top = 0; top < p.down; top += p.band) {
            const int now = smaller(p.images, images - image);
            const int band = smaller(p.band, p.down - top), tiles = band * p.along;
            for (int n = 0; n < now; n++) {
                pad_band(maps, image + n, rows, columns, channels, before, OUT * top - before,
                         OUT * band + 2, OUT * p.along + 2, scratch);
                tiles_to_points(p, band, scratch, points + (long)n * tiles * p.in_lanes);
                pad_band(grad, image + n, p.out_rows, p.out_columns, outputs, 0, OUT * top,
                         OUT * band, OUT * p.along, scratch);
                grad_to_points(p, band, scratch, grad_points + (long)n * tiles * p.out_lanes);
            }
            for (int point = 0; point < POINTS; point++)
                product(1, channels, now * tiles, points + point * p.in_plane, 1, p.in_lanes,
                        grad_points + point * p.out_plane, p.out_lanes,
                        grad_weights + (long)point * channels * p.out_lanes);
        }
    free(scratch);
}
