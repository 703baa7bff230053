/* The first layer: a convolution, pooling and ReLU, straight from the pixels, which are stored
 * `(images, inputs, rows, columns)`: inputs are an image's channels. */
#include "vectors.h"

#ifdef __AVX512VL__
#define HAS_32_REGISTERS 1
#else
#define HAS_32_REGISTERS 0
#endif

typedef struct {
    int inputs, rows, columns;    /* of an image */
    int kernel, channels, before; /* before: rows and columns of padding before an image */
    int height, width;            /* of a padded image */
    int down, along;              /* rows and columns of a pooled map */
    int lanes;                    /* channels, rounded up */
    int words;                    /* of a row's ink, see `Padded` */
} Shape;

INLINE Shape shape_of(int pool, int inputs, int rows, int columns, int kernel, int channels,
                      int before, int after) {
    Shape s = {.inputs = inputs, .rows = rows, .columns = columns};
    s.kernel = kernel;
    s.channels = channels;
    s.before = before;
    s.height = rows + before + after;
    s.width = columns + before + after;
    s.down = (s.height - kernel + 1) / pool;
    s.along = (s.width - kernel + 1) / pool;
    s.lanes = round_up(channels);
    s.words = (s.width / 8 + 5 + 7) / 8;
    return s;
}

/* One image with padding around it. Ink is, of each row, the columns where an input is not zero, as
 * bits: a byte of padding, then a byte for eight columns of the image, and four bytes to spare. */
typedef struct {
    float *pixels;
    uint64_t *ink;
    uint64_t *columns; /* the same of some rows together, see `inked` */
} Padded;

INLINE long padded_floats(Shape s) { return (long)s.inputs * s.height * s.width + LANES; }

INLINE Padded make_padded(Shape s) {
    const long bits = 2 * (s.height + 1) * s.words; /* as floats */
    float *memory = allocate(bits + padded_floats(s));
    uint64_t *ink = (uint64_t *)memory;
    return (Padded){memory + bits, ink, ink + s.height * s.words};
}

INLINE void free_padded(Padded padded) { free(padded.ink); }

/* Which values are not zero, as bits. */
INLINE uint32_t bits_of(V v) {
#ifdef __AVX2__
    return _mm256_movemask_ps((__m256)(I)(v != 0));
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint32_t)(v[i] != 0) << i;
    return bits;
#endif
}

/* Up to eight pixels; lanes from `count` on are zero. */
INLINE V load_pixels(const void *pixels, long at, int pixels_f32, int count) {
    if (pixels_f32) return load(pixels, at, 1, count);
    B bytes = {0};
    copy(&bytes, (const uint8_t *)pixels + at, 1, count);
    return __builtin_convertvector(widen(bytes), V);
}

/* Pixels are uint8 (pixels_f32 = 0) or float32 (pixels_f32 = 1). */
INLINE void pad(const void *pixels, long image, int pixels_f32, Shape s, Padded *padded) {
    memset(padded->pixels, 0, sizeof(float) * padded_floats(s));
    memset(padded->ink, 0, sizeof(uint64_t) * s.height * s.words);
    for (int input = 0; input < s.inputs; input++)
        for (int y = 0; y < s.rows; y++) {
            const int line = y + s.before;
            float *row = padded->pixels + (input * s.height + line) * s.width + s.before;
            uint8_t *ink = (uint8_t *)(padded->ink + line * s.words) + 1;
            const long at = ((image * s.inputs + input) * s.rows + y) * s.columns;
            for (int x = 0; x < s.columns; x += LANES) {
                const V v = load_pixels(pixels, at + x, pixels_f32, s.columns - x);
                store_f32(row + x, v); /* zeros beyond the row are padding, or written later */
                ink[x / LANES] |= bits_of(v);
            }
        }
}

/* Weights of a channel. */
INLINE int taps_of(Shape s) { return s.inputs * s.kernel * s.kernel; }

/* One or two adjacent windows, and one or two blocks of eight channels. */
INLINE void stem_windows(const int pool, int is_f32, const int windows, const int blocks, Shape s,
                         int c, const float *corner, const float *weights, const float *bias,
                         void *result, uint8_t *argmax, long at) {
    V sum[2][MAX_WINDOW][2];
    for (int w = 0; w < windows; w++)
        for (int position = 0; position < pool * pool; position++)
            for (int b = 0; b < blocks; b++)
                sum[w][position][b] = load_f32(bias + c + LANES * b);
    const float *tap_weights = weights + c;
    for (int input = 0; input < s.inputs; input++, corner += s.height * s.width)
        for (int i = 0; i < s.kernel; i++)
            for (int j = 0; j < s.kernel; j++, tap_weights += s.lanes) {
                const float *tap = corner + i * s.width + j;
                V weight[2];
                for (int b = 0; b < blocks; b++) weight[b] = load_f32(tap_weights + LANES * b);
#pragma GCC unroll 2
                for (int w = 0; w < windows; w++)
#pragma GCC unroll 16
                    for (int position = 0; position < pool * pool; position++)
#pragma GCC unroll 2
                        for (int b = 0; b < blocks; b++)
                            sum[w][position][b] +=
                                weight[b] *
                                tap[position / pool * s.width + position % pool + w * pool];
            }
    for (int w = 0; w < windows; w++)
        for (int b = 0; b < blocks; b++) {
            V max = sum[w][0][b];
            I best = {0};
#pragma GCC unroll 16
            for (int position = 1; position < pool * pool; position++)
                update_max(&max, &best, sum[w][position][b], position);
            relu(&max, &best);
            int first = c + LANES * b, count = s.channels - first;
            store(result, at + w * s.channels + first, is_f32, count, max);
            store_argmax(argmax + at + w * s.channels + first, count, best);
        }
}

/* The columns, as bits, with ink in any row that the windows of map row y cover. */
INLINE const uint8_t *inked(const int pool, Shape s, Padded *padded, int y) {
    for (int word = 0; word < s.words; word++) {
        uint64_t columns = 0;
        for (int i = 0; i < pool + s.kernel - 1; i++)
            columns |= padded->ink[(y * pool + i) * s.words + word];
        padded->columns[word] = columns;
    }
    return (const uint8_t *)padded->columns;
}

/* Whether the window at x covers no ink at all, as nearly half of MNIST's do. */
INLINE int is_blank(const int pool, Shape s, const uint8_t *columns, int x) {
    const int bit = x * pool + 8 - s.before;
    const uint8_t *from = columns + bit / 8;
    const uint32_t bits =
        from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
    return !(bits >> bit % 8 & ((1u << (pool + s.kernel - 1)) - 1));
}

INLINE void stem_forward_as(const int pool, int is_f32, long images, const void *pixels,
                            int pixels_f32, Shape s, const float *weights, const float *bias,
                            void *result, uint8_t *argmax) {
    Padded padded = make_padded(s);
    for (long image = 0; image < images; image++) {
        pad(pixels, image, pixels_f32, s, &padded);
        for (int y = 0; y < s.down; y++) {
            const uint8_t *columns = inked(pool, s, &padded, y);
            for (int x = 0; x < s.along;) {
                const float *corner = padded.pixels + y * pool * s.width + x * pool;
                long at = ((image * s.down + y) * s.along + x) * s.channels;
                if (is_blank(pool, s, columns, x)) {
                    for (int c = 0; c < s.channels; c += LANES) {
                        V max = load_f32(bias + c);
                        I best = {0};
                        relu(&max, &best);
                        store(result, at + c, is_f32, s.channels - c, max);
                        store_argmax(argmax + at + c, s.channels - c, best);
                    }
                    x++;
                    continue;
                }
                /* Enough sums to hide the latency of a product, few enough for the registers. */
                int windows = pool <= 2 && x + 1 < s.along &&
                              (HAS_32_REGISTERS || s.channels <= LANES) ? 2 : 1;
#define WINDOWS(windows, blocks)                                                               \
    stem_windows(pool, is_f32, windows, blocks, s, c, corner, weights, bias, result, argmax, at)
                for (int c = 0; c < s.channels;) {
                    int two = s.channels - c > LANES && pool <= 3;
                    if (windows == 2 && two) WINDOWS(2, 2);
                    else if (windows == 2) WINDOWS(2, 1);
                    else if (two) WINDOWS(1, 2);
                    else WINDOWS(1, 1);
                    c += two ? 2 * LANES : LANES;
                }
#undef WINDOWS
                x += windows;
            }
        }
    }
    free_padded(padded);
}

/* A convolution with weights `(taps, lanes)` and a bias, pooled, and its ReLU. */
void stem_forward(long images, int inputs, int rows, int columns, int pool, int kernel,
                  int channels, int before, int after, int pixels_f32, int is_f32,
                  const void *pixels, const float *weights, const float *bias, void *result,
                  uint8_t *argmax) {
    const Shape s = shape_of(pool, inputs, rows, columns, kernel, channels, before, after);
    WITH_POOL(stem_forward_as, is_f32, images, pixels, pixels_f32, s, weights, bias, result,
              argmax)
}

INLINE void stem_window_grads(const int pool, int is_f32, const int blocks, int blank, Shape s,
                              int c, const float *corner, const void *grad, const uint8_t *argmax,
                              long at, float *grad_weights, float *grad_bias) {
    V by_position[MAX_WINDOW][2];
    for (int b = 0; b < blocks; b++) {
        int first = c + LANES * b, count = s.channels - first;
        V g = load(grad, at + first, is_f32, count);
        I best = load_argmax(argmax + at + first, count);
        for (int position = 0; position < pool * pool; position++)
            by_position[position][b] = (V)((I)g & (best == position));
        float *sum = grad_bias + first;
        store_f32(sum, load_f32(sum) + (V)((I)g & (best != ZEROED)));
    }
    if (blank) return;
    float *tap_weights = grad_weights + c;
    for (int input = 0; input < s.inputs; input++, corner += s.height * s.width)
        for (int i = 0; i < s.kernel; i++)
            for (int j = 0; j < s.kernel; j++, tap_weights += s.lanes) {
                const float *tap = corner + i * s.width + j;
                V sum[2];
                for (int b = 0; b < blocks; b++) sum[b] = load_f32(tap_weights + LANES * b);
#pragma GCC unroll 16
                for (int position = 0; position < pool * pool; position++)
#pragma GCC unroll 2
                    for (int b = 0; b < blocks; b++)
                        sum[b] += by_position[position][b] *
                                  tap[position / pool * s.width + position % pool];
                for (int b = 0; b < blocks; b++) store_f32(tap_weights + LANES * b, sum[b]);
            }
}

INLINE void stem_backward_as(const int pool, int is_f32, long images, const void *pixels,
                             int pixels_f32, Shape s, const void *grad, const uint8_t *argmax,
                             float *grad_weights, float *grad_bias, float *scratch) {
    Padded padded = make_padded(s);
    const int weights = taps_of(s) * s.lanes;
    for (long image = 0; image < images; image++) {
        pad(pixels, image, pixels_f32, s, &padded);
        memset(scratch, 0, sizeof(float) * (weights + s.lanes));
        for (int y = 0; y < s.down; y++) {
            const uint8_t *columns = inked(pool, s, &padded, y);
            for (int x = 0; x < s.along; x++) {
                const int blank = is_blank(pool, s, columns, x);
                const float *corner = padded.pixels + y * pool * s.width + x * pool;
                long at = ((image * s.down + y) * s.along + x) * s.channels;
#define GRADS(blocks)                                                                          \
    stem_window_grads(pool, is_f32, blocks, blank, s, c, corner, grad, argmax, at, scratch,    \
                      scratch + weights)
                for (int c = 0; c < s.channels;) {
                    int two = s.channels - c > LANES && pool <= 3;
                    if (two) GRADS(2);
                    else GRADS(1);
                    c += two ? 2 * LANES : LANES;
                }
#undef GRADS
            }
        }
        for (int i = 0; i < weights; i++) grad_weights[i] += scratch[i];
        for (int i = 0; i < s.lanes; i++) grad_bias[i] += scratch[weights + i];
    }
    free_padded(padded);
}

/* Gradients of weights and bias. Adds to both, one image at a time, for float32's precision. */
void stem_backward(long images, int inputs, int rows, int columns, int pool, int kernel,
                   int channels, int before, int after, int pixels_f32, int is_f32,
                   const void *pixels, const void *grad, const uint8_t *argmax,
                   float *grad_weights, float *grad_bias) {
    const Shape s = shape_of(pool, inputs, rows, columns, kernel, channels, before, after);
    float *scratch = allocate((taps_of(s) + 1) * s.lanes);
    WITH_POOL(stem_backward_as, is_f32, images, pixels, pixels_f32, s, grad, argmax, grad_weights,
              grad_bias, scratch)
    free(scratch);
}

INLINE double total(V v) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* Subtracts a number from all pixels of each input, padding included. */
INLINE void subtract(Shape s, const float *shift, Padded *padded) {
    const int pixels = s.height * s.width;
    for (int input = 0; input < s.inputs; input++)
        if (shift[input] != 0)
            for (int i = 0; i < pixels; i++) padded->pixels[input * pixels + i] -= shift[input];
}

/* Where a kernel's j-th column, those of all inputs counted, begins in a padded image. */
INLINE int column_of(Shape s, int j) {
    return j / s.kernel * s.height * s.width + j % s.kernel;
}

/* The tap of a kernel's row i and of its j-th column, those of all inputs counted. */
INLINE int tap_of(Shape s, int i, int j) {
    return (j / s.kernel * s.kernel + i) * s.kernel + j % s.kernel;
}

/* The sum of products of two rows over the positions of the kernel along them. last: 1 for those
 * of the last eight that are positions, else 0. */
INLINE V row_product(const float *one, const float *other, int positions, V last) {
    V sum = {0};
    int x = 0;
    for (; x + LANES < positions; x += LANES) sum += load_f32(one + x) * load_f32(other + x);
    return sum + load_f32(one + x) * last * load_f32(other + x);
}

/* Sums of the pixels under each tap of a kernel, `(taps,)`, and of products of the pixels under two
 * taps, `(taps, taps)`, over all positions of the kernel. Adds to both. Of two products that are
 * the same only that one is complete whose second tap is in the same row as its first or below.
 * Pixels are those of each input less its shift: sums of small numbers lose fewer digits.
 *
 * A product depends on the distance of its rows and on its columns only: it is summed along each
 * row once, and the rows' sums are added by position. */
void pixel_moments(long images, int inputs, int rows, int columns, int kernel, int before,
                   int after, int pixels_f32, const void *pixels, const float *shift,
                   double *sums, double *products) {
    const Shape s = shape_of(1, inputs, rows, columns, kernel, 1, before, after);
    const int k = kernel, taps = taps_of(s), lines = inputs * k, ones_floats = s.width + LANES;
    const long size = (long)LANES * (1 + taps) * taps;
    const long pixels_at_once = 50176, together = 1 + (pixels_at_once - 1) / (rows * columns);
    float *scratch = allocate(size + ones_floats + LANES * s.height);
    float *ones = scratch + size, *by_row = ones + ones_floats;
    Padded padded = make_padded(s);
    V last;
    for (int i = 0; i < LANES; i++) last[i] = (s.along - 1) / LANES * LANES + i < s.along;
    for (int i = 0; i < ones_floats; i++) ones[i] = 1;
    memset(scratch, 0, sizeof(float) * size);
    for (long image = 0; image < images; image++) {
        pad(pixels, image, pixels_f32, s, &padded);
        subtract(s, shift, &padded);
        for (int distance = -1; distance < k; distance++) /* -1: single pixels */
            for (int j = 0; j < lines; j++) /* columns of the kernel in each input */
                for (int l = 0; l < (distance < 0 ? 1 : lines); l++) {
                    const int down = distance < 0 ? 0 : distance;
                    const float *one = padded.pixels + column_of(s, j);
                    const float *other = padded.pixels + down * s.width + column_of(s, l);
                    for (int y = 0; y < s.height - down; y++)
                        store_f32(by_row + LANES * y,
                                  row_product(one + y * s.width,
                                              distance < 0 ? ones : other + y * s.width, s.along,
                                              last));
                    V window = {0};
                    for (int y = 0; y < s.down - 1; y++) window += load_f32(by_row + LANES * y);
                    for (int i = 0; i + down < k; i++) {
                        const int first = tap_of(s, i, j), second = tap_of(s, i + down, l);
                        float *to =
                            scratch + LANES * (distance < 0 ? first : taps + first * taps + second);
                        window += load_f32(by_row + LANES * (i + s.down - 1));
                        store_f32(to, load_f32(to) + window);
                        window -= load_f32(by_row + LANES * i);
                    }
                }
        /* Before float32 loses digits. */
        if (image % together == together - 1 || image == images - 1) {
            for (int i = 0; i < taps; i++) sums[i] += total(load_f32(scratch + LANES * i));
            for (int i = 0; i < taps * taps; i++)
                products[i] += total(load_f32(scratch + LANES * (taps + i)));
            memset(scratch, 0, sizeof(float) * size);
        }
    }
    free_padded(padded);
    free(scratch);
}
