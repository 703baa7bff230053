/* Convolutions with kernels of 3 × 3 by minimal filtering, F(4 × 4, 3 × 3): Lavin and Gray,
 * arXiv:1509.09308. A tile of 6 × 6 numbers becomes 36 others, `points`; at each point channels are
 * multiplied as in a matrix product, and 36 products become a tile of 4 × 4 results: a quarter of
 * the multiplications. All is linear, so that the weights' gradient is the same turned round. */
#include "vectors.h"

#define OUT 4
#define IN 6
#define POINTS (IN * IN)
#define ROWS 6          /* rows of a product at once, of two times eight numbers */
#define TILES_AT_ONCE 32 /* about: what they need shall stay in the second cache */

/* One convolution. Numbers of channels are filled to multiples of eight; planes of points are a
 * little apart, as else all would fall into the same lines of the first cache. */
typedef struct {
    int rows, columns, channels; /* of the map that is read */
    int before;                  /* zeros before its rows and columns */
    int high, across, outputs;   /* of the result */
} Conv;

typedef struct {
    int down, along, images;     /* tiles of an image; images at once */
    int inputs, outputs;         /* channels, filled */
    long padded, gradient;       /* numbers of a padded image and of its gradient */
    long in_plane, out_plane;
} Plan;

INLINE Plan plan_of(Conv s) {
    Plan p = {.down = (s.high + OUT - 1) / OUT, .along = (s.across + OUT - 1) / OUT};
    const int tiles = p.down * p.along;
    p.images = tiles < TILES_AT_ONCE ? TILES_AT_ONCE / tiles : 1;
    p.inputs = filled(s.channels);
    p.outputs = filled(s.outputs);
    p.padded = (long)(OUT * p.down + 2) * (OUT * p.along + 2) * p.inputs;
    p.gradient = (long)OUT * p.down * OUT * p.along * p.outputs;
    p.in_plane = (long)p.images * tiles * p.inputs + 2 * LANES;
    p.out_plane = (long)p.images * tiles * p.outputs + 2 * LANES;
    return p;
}

/* How many numbers the functions below need as scratch. */
long winograd_scratch(Conv s) {
    const Plan p = plan_of(s);
    const long image = p.padded > p.gradient ? p.padded : p.gradient;
    return image + POINTS * (p.in_plane + p.out_plane);
}

/* One image as float32 with zeros around it. */
INLINE void pad_image(int wide, const void *map, long image, int rows, int columns, int channels,
                      int before, int padded_columns, long size, float *padded) {
    const int lanes = filled(channels);
    memset(padded, 0, sizeof(float) * size);
    for (int y = 0; y < rows; y++) {
        const long from = (image * rows + y) * columns * channels;
        float *row = padded + ((long)(y + before) * padded_columns + before) * lanes;
        if (wide && lanes == channels) {
            memcpy(row, (const float *)map + from, sizeof(float) * columns * channels);
            continue;
        }
        for (int x = 0; x < columns; x++)
            for (int c = 0; c < channels; c += LANES)
                store_floats(row + (long)x * lanes + c,
                             load(map, from + (long)x * channels + c, wide, channels - c));
    }
}

/* A row or column of a tile, to points. */
INLINE void to_points(const V *d, const int apart, V *t) {
    const V d0 = d[0], d1 = d[apart], d2 = d[2 * apart], d3 = d[3 * apart], d4 = d[4 * apart],
            d5 = d[5 * apart];
    const V even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, half = d4 - d2, rest = 2.0f * (d3 - d1);
    t[0] = 4.0f * d0 - 5.0f * d2 + d4;
    t[apart] = even + odd;
    t[2 * apart] = even - odd;
    t[3 * apart] = half + rest;
    t[4 * apart] = half - rest;
    t[5 * apart] = 4.0f * d1 - 5.0f * d3 + d5;
}

/* Points to a row or column of results. */
INLINE void to_results(const V *m, const int apart, V *y) {
    const V sum = m[apart] + m[2 * apart], gap = m[apart] - m[2 * apart];
    const V far_sum = m[3 * apart] + m[4 * apart], far_gap = m[3 * apart] - m[4 * apart];
    const V last = m[5 * apart];
    y[0] = m[0] + sum + far_sum;
    y[apart] = gap + 2.0f * far_gap;
    y[2 * apart] = sum + 4.0f * far_sum;
    y[3 * apart] = gap + 8.0f * far_gap + last;
}

/* The same turned round: what results' gradients are at the points. */
INLINE void from_results(const V *y, const int apart, V *m) {
    const V y0 = y[0], y1 = y[apart], y2 = y[2 * apart], y3 = y[3 * apart];
    const V even = y0 + y2, odd = y1 + y3, far_even = y0 + 4.0f * y2, far_odd = 2.0f * y1 + 8.0f * y3;
    m[0] = y0;
    m[apart] = even + odd;
    m[2 * apart] = even - odd;
    m[3 * apart] = far_even + far_odd;
    m[4 * apart] = far_even - far_odd;
    m[5 * apart] = y3;
}

/* All tiles of a padded image; the points of tile t begin at points + t * lanes. */
INLINE void tiles_to_points(Plan p, const float *padded, float *points) {
    const long row = (long)(OUT * p.along + 2) * p.inputs;
    for (int i = 0; i < p.down; i++)
        for (int j = 0; j < p.along; j++, points += p.inputs)
            for (int c = 0; c < p.inputs; c += LANES) {
                const float *corner = padded + OUT * i * row + (long)OUT * j * p.inputs + c;
                V t[POINTS], column[IN];
#pragma GCC unroll 6
                for (int x = 0; x < IN; x++) {
#pragma GCC unroll 6
                    for (int y = 0; y < IN; y++)
                        column[y] = load_floats(corner + y * row + (long)x * p.inputs);
                    V found[IN];
                    to_points(column, 1, found);
#pragma GCC unroll 6
                    for (int y = 0; y < IN; y++) t[y * IN + x] = found[y];
                }
#pragma GCC unroll 6
                for (int y = 0; y < IN; y++) {
                    V found[IN];
                    to_points(t + y * IN, 1, found);
#pragma GCC unroll 6
                    for (int x = 0; x < IN; x++)
                        store_floats(points + (y * IN + x) * p.in_plane + c, found[x]);
                }
            }
}

/* A row of tiles to a strip of four rows of results, `along` tiles long. */
INLINE void points_to_strip(Plan p, const float *points, float *strip) {
    const long row = (long)OUT * p.along * p.outputs;
    for (int j = 0; j < p.along; j++, points += p.outputs)
        for (int c = 0; c < p.outputs; c += LANES) {
            float *to = strip + (long)OUT * j * p.outputs + c;
            V t[OUT * IN];
#pragma GCC unroll 6
            for (int x = 0; x < IN; x++) {
                V column[IN], found[OUT];
#pragma GCC unroll 6
                for (int y = 0; y < IN; y++)
                    column[y] = load_floats(points + (y * IN + x) * p.out_plane + c);
                to_results(column, 1, found);
#pragma GCC unroll 4
                for (int y = 0; y < OUT; y++) t[y * IN + x] = found[y];
            }
#pragma GCC unroll 4
            for (int y = 0; y < OUT; y++) {
                V found[OUT];
                to_results(t + y * IN, 1, found);
#pragma GCC unroll 4
                for (int x = 0; x < OUT; x++)
                    store_floats(to + y * row + (long)x * p.outputs, found[x]);
            }
        }
}

/* Adds a strip's numbers, and their squares, by channel. */
INLINE void add_moments(Conv s, Plan p, int rows, const float *strip, double *sums, double *squares) {
    for (int c = 0; c < s.outputs; c += LANES) {
        V sum[2] = {{0}}, square[2] = {{0}}; /* of every other: none waits for the one before */
        for (int y = 0; y < rows; y++) {
            const float *row = strip + (long)OUT * p.along * p.outputs * y + c;
            for (int x = 0; x < s.across; x += 2)
#pragma GCC unroll 2
                for (int k = 0; k < 2; k++)
                    if (x + k < s.across) {
                        const V v = load_floats(row + (long)(x + k) * p.outputs);
                        sum[k] += v;
                        square[k] += v * v;
                    }
        }
        for (int k = 0; k < LANES && c + k < s.outputs; k++) {
            sums[c + k] += sum[0][k] + sum[1][k];
            squares[c + k] += square[0][k] + square[1][k];
        }
    }
}

/* An image's result, by way of strips: it is written in order, since single vectors written all
 * over it take three times as long. sums: NULL, or where its moments are added. */
INLINE void points_to_result(int wide, Conv s, Plan p, const float *points, long image, void *out,
                             float *strip, double *sums, double *squares) {
    for (int i = 0; i < p.down; i++) {
        points_to_strip(p, points + (long)i * p.along * p.outputs, strip);
        if (sums)
            add_moments(s, p, s.high - OUT * i < OUT ? s.high - OUT * i : OUT, strip, sums, squares);
        for (int y = 0; y < OUT && OUT * i + y < s.high; y++) {
            const float *row = strip + (long)OUT * p.along * p.outputs * y;
            const long at = (image * s.high + OUT * i + y) * s.across * s.outputs;
            if (wide && s.outputs == p.outputs) {
                memcpy((float *)out + at, row, sizeof(float) * s.across * s.outputs);
                continue;
            }
            for (int x = 0; x < s.across; x++)
                for (int c = 0; c < s.outputs; c += LANES)
                    store(out, at + (long)x * s.outputs + c, wide, s.outputs - c,
                          load_floats(row + (long)x * p.outputs + c));
        }
    }
}

/* The points of the gradient of an image's results. */
INLINE void gradient_to_points(Plan p, const float *gradient, float *points) {
    const long row = (long)OUT * p.along * p.outputs;
    for (int i = 0; i < p.down; i++)
        for (int j = 0; j < p.along; j++, points += p.outputs)
            for (int c = 0; c < p.outputs; c += LANES) {
                const float *corner = gradient + OUT * i * row + (long)OUT * j * p.outputs + c;
                V t[IN * OUT];
#pragma GCC unroll 4
                for (int x = 0; x < OUT; x++) {
                    V column[OUT], found[IN];
#pragma GCC unroll 4
                    for (int y = 0; y < OUT; y++)
                        column[y] = load_floats(corner + y * row + (long)x * p.outputs);
                    from_results(column, 1, found);
#pragma GCC unroll 6
                    for (int y = 0; y < IN; y++) t[y * OUT + x] = found[y];
                }
#pragma GCC unroll 6
                for (int y = 0; y < IN; y++) {
                    V found[IN];
                    from_results(t + y * OUT, 1, found);
#pragma GCC unroll 6
                    for (int x = 0; x < IN; x++)
                        store_floats(points + (y * IN + x) * p.out_plane + c, found[x]);
                }
            }
}

/* Rows of left times right `(depth, width)`, eight or sixteen columns of it. left: by row and by
 * step of depth so far apart. add: to what is in the result. */
INLINE void product_block(const int rows, const int blocks, const int add, int depth,
                          const float *left, long by_row, long by_step, const float *right,
                          long width, float *result) {
    V sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++)
            sums[r][b] = add ? load_floats(result + r * width + LANES * b) : all(0);
    for (int k = 0; k < depth; k++) {
        V weight[2];
        for (int b = 0; b < blocks; b++) {
            weight[b] = load_floats(right + k * width + LANES * b);
            KEEP(weight[b]);
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int b = 0; b < blocks; b++)
                sums[r][b] += weight[b] * left[r * by_row + k * by_step];
    }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) store_floats(result + r * width + LANES * b, sums[r][b]);
}

INLINE void product_rows(const int rows, const int add, int depth, const float *left, long by_row,
                         long by_step, const float *right, long width, float *result) {
    int c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES)
        product_block(rows, 2, add, depth, left, by_row, by_step, right + c, width, result + c);
    if (c < width)
        product_block(rows, 1, add, depth, left, by_row, by_step, right + c, width, result + c);
}

/* Blocks of rows of nearly equal numbers, six at most. */
INLINE void product(const int add, int rows, int depth, const float *left, long by_row, long by_step,
                    const float *right, long width, float *result) {
    for (int parts = (rows + ROWS - 1) / ROWS; parts; parts--) {
        const int now = (rows + parts - 1) / parts;
        WITH_ROWS(now, product_rows, add, depth, left, by_row, by_step, right, width, result)
        rows -= now;
        left += now * by_row;
        result += now * width;
    }
}

INLINE long smaller(long one, long other) { return one < other ? one : other; }

/* Correlates a map with kernels, zeros around it. weights: the kernels' points, `(36, channels,
 * outputs filled)`. sums, squares: NULL, or where those of the results are added, by channel. */
void winograd(long images, const void *map, int wide, Conv s, const float *weights, void *out,
              float *scratch, double *sums, double *squares) {
    const Plan p = plan_of(s);
    const int tiles = p.down * p.along;
    float *in = scratch, *points = in + p.padded, *products = points + POINTS * p.in_plane;
    for (long image = 0; image < images; image += p.images) {
        const int now = smaller(p.images, images - image);
        for (int n = 0; n < now; n++) {
            pad_image(wide, map, image + n, s.rows, s.columns, s.channels, s.before,
                      OUT * p.along + 2, p.padded, in);
            tiles_to_points(p, in, points + (long)n * tiles * p.inputs);
        }
        for (int point = 0; point < POINTS; point++)
            product(0, now * tiles, s.channels, points + point * p.in_plane, p.inputs, 1,
                    weights + (long)point * s.channels * p.outputs, p.outputs,
                    products + point * p.out_plane);
        for (int n = 0; n < now; n++)
            points_to_result(wide, s, p, products + (long)n * tiles * p.outputs, image + n, out, in,
                             sums, squares);
    }
}

/* The gradient of such weights' points, of that of the result. Adds to of_weights. */
void winograd_weights(long images, const void *map, int wide, Conv s, const void *gradient,
                      float *of_weights, float *scratch) {
    const Plan p = plan_of(s);
    const int tiles = p.down * p.along;
    const long image_size = p.padded > p.gradient ? p.padded : p.gradient;
    float *in = scratch, *points = in + image_size, *gradients = points + POINTS * p.in_plane;
    for (long image = 0; image < images; image += p.images) {
        const int now = smaller(p.images, images - image);
        for (int n = 0; n < now; n++) {
            pad_image(wide, map, image + n, s.rows, s.columns, s.channels, s.before,
                      OUT * p.along + 2, p.padded, in);
            tiles_to_points(p, in, points + (long)n * tiles * p.inputs);
            pad_image(wide, gradient, image + n, s.high, s.across, s.outputs, 0, OUT * p.along,
                      p.gradient, in);
            gradient_to_points(p, in, gradients + (long)n * tiles * p.outputs);
        }
        for (int point = 0; point < POINTS; point++)
            product(1, s.channels, now * tiles, points + point * p.in_plane, 1, p.inputs,
                    gradients + point * p.out_plane, p.outputs,
                    of_weights + (long)point * s.channels * p.outputs);
    }
}
