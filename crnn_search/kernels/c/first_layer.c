/* The first layer: a convolution of one channel, pooling and ReLU, straight from the pixels. */
#include "vectors.h"

#define SIZE 28 /* rows and columns of an image */
#define MAX_KERNEL 9
#define MAX_PADDED (SIZE + MAX_KERNEL - 1)
#ifdef __AVX512VL__
#define HAS_32_REGISTERS 1
#else
#define HAS_32_REGISTERS 0
#endif

typedef struct {
    int kernel, channels, before; /* before: rows and columns of padding before an image */
    int width, side;              /* of a padded image and of a pooled map */
    int lanes;                    /* channels, rounded up */
} Shape;

INLINE Shape shape_of(int pool, int kernel, int channels, int before, int after) {
    const int width = SIZE + before + after;
    if (width > MAX_PADDED) abort();
    const int side = (width - kernel + 1) / pool;
    return (Shape){kernel, channels, before, width, side, round_up(channels)};
}

/* One image with padding around it. */
typedef struct {
    float pixels[MAX_PADDED * MAX_PADDED + LANES];
    uint64_t ink[MAX_PADDED]; /* of each row, the columns that are not zero, as bits */
} Padded;

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

/* Pixels are uint8 (pixels_f32 = 0) or float32 (pixels_f32 = 1). */
INLINE void pad(const void *pixels, long image, int pixels_f32, int before, int width,
                Padded *padded) {
    static const int starts[] = {0, LANES, 2 * LANES, SIZE - LANES}; /* the last two overlap */
    memset(padded->pixels, 0, sizeof(float) * (width * width + LANES));
    memset(padded->ink, 0, sizeof padded->ink);
    for (int y = 0; y < SIZE; y++) {
        float *row = padded->pixels + (y + before) * width + before;
        const long at = (image * SIZE + y) * SIZE;
        uint64_t ink = 0;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int x = starts[i];
            V v;
            if (pixels_f32) {
                v = load_f32((const float *)pixels + at + x);
            } else {
                B bytes;
                memcpy(&bytes, (const uint8_t *)pixels + at + x, sizeof bytes);
                v = __builtin_convertvector(widen(bytes), V);
            }
            store_f32(row + x, v);
            ink |= (uint64_t)bits_of(v) << x;
        }
        padded->ink[y + before] = ink << before;
    }
}

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
INLINE uint64_t inked(const int pool, Shape s, const Padded *padded, int y) {
    uint64_t columns = 0;
    for (int i = 0; i < pool + s.kernel - 1; i++) columns |= padded->ink[y * pool + i];
    return columns;
}

/* Whether the window at x covers no ink at all, as nearly half of MNIST's do. */
INLINE int is_blank(const int pool, Shape s, uint64_t columns, int x) {
    return !(columns >> x * pool & ((1ull << (pool + s.kernel - 1)) - 1));
}

INLINE void stem_forward_as(const int pool, int is_f32, long images, const void *pixels,
                            int pixels_f32, Shape s, const float *weights, const float *bias,
                            void *result, uint8_t *argmax) {
    Padded padded;
    for (long image = 0; image < images; image++) {
        pad(pixels, image, pixels_f32, s.before, s.width, &padded);
        for (int y = 0; y < s.side; y++) {
            const uint64_t columns = inked(pool, s, &padded, y);
            for (int x = 0; x < s.side;) {
                const float *corner = padded.pixels + y * pool * s.width + x * pool;
                long at = ((image * s.side + y) * s.side + x) * s.channels;
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
                int windows = pool <= 2 && x + 1 < s.side &&
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
}

/* A convolution with weights `(taps, lanes)` and a bias, pooled, and its ReLU. */
void stem_forward(long images, int pool, int kernel, int channels, int before, int after,
                  int pixels_f32, int is_f32, const void *pixels, const float *weights,
                  const float *bias, void *result, uint8_t *argmax) {
    const Shape s = shape_of(pool, kernel, channels, before, after);
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
    Padded padded;
    const int weights = s.kernel * s.kernel * s.lanes;
    for (long image = 0; image < images; image++) {
        pad(pixels, image, pixels_f32, s.before, s.width, &padded);
        memset(scratch, 0, sizeof(float) * (weights + s.lanes));
        for (int y = 0; y < s.side; y++) {
            const uint64_t columns = inked(pool, s, &padded, y);
            for (int x = 0; x < s.side; x++) {
                const int blank = is_blank(pool, s, columns, x);
                const float *corner = padded.pixels + y * pool * s.width + x * pool;
                long at = ((image * s.side + y) * s.side + x) * s.channels;
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
}

/* Gradients of weights and bias. Adds to both, one image at a time, for float32's precision. */
void stem_backward(long images, int pool, int kernel, int channels, int before, int after,
                   int pixels_f32, int is_f32, const void *pixels, const void *grad,
                   const uint8_t *argmax, float *grad_weights, float *grad_bias) {
    const Shape s = shape_of(pool, kernel, channels, before, after);
    float *scratch = allocate((kernel * kernel + 1) * s.lanes);
    WITH_POOL(stem_backward_as, is_f32, images, pixels, pixels_f32, s, grad, argmax, grad_weights,
              grad_bias, scratch)
    free(scratch);
}

INLINE double total(V v) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
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
 * taps, the upper triangle of `(taps, taps)`, over all positions of the kernel. Adds to both.
 *
 * A product depends on the distance of its rows and on its columns only: it is summed along each
 * row once, and the rows' sums are added by position. */
void pixel_moments(long images, int kernel, int before, int after, int pixels_f32,
                   const void *pixels, double *sums, double *products) {
    const Shape s = shape_of(1, kernel, 1, before, after);
    const int k = kernel, taps = k * k, width = s.width, positions = s.side;
    const long size = (long)LANES * (1 + taps) * taps;
    float *scratch = allocate(size);
    Padded padded;
    float ones[MAX_PADDED + LANES];
    V last, rows[MAX_PADDED];
    for (int i = 0; i < LANES; i++) last[i] = (positions - 1) / LANES * LANES + i < positions;
    for (int i = 0; i < MAX_PADDED + LANES; i++) ones[i] = 1;
    memset(scratch, 0, sizeof(float) * size);
    for (long image = 0; image < images; image++) {
        pad(pixels, image, pixels_f32, before, width, &padded);
        for (int distance = -1; distance < k; distance++) /* -1: single pixels */
            for (int j = 0; j < k; j++)
                for (int l = 0; l < (distance < 0 ? 1 : k); l++) {
                    const int down = distance < 0 ? 0 : distance;
                    for (int y = 0; y < width - down; y++) {
                        const float *other =
                            distance < 0 ? ones : padded.pixels + (y + down) * width + l;
                        rows[y] =
                            row_product(padded.pixels + y * width + j, other, positions, last);
                    }
                    V window = {0};
                    for (int y = 0; y < positions - 1; y++) window += rows[y];
                    for (int i = 0; i + down < k; i++) {
                        const int one = i * k + j, two = (i + down) * k + l;
                        float *to =
                            scratch + LANES * (distance < 0 ? one : taps + one * taps + two);
                        window += rows[i + positions - 1];
                        store_f32(to, load_f32(to) + window);
                        window -= rows[i];
                    }
                }
        if (image % 64 == 63 || image == images - 1) { /* before float32 loses digits */
            for (int i = 0; i < taps; i++) sums[i] += total(load_f32(scratch + LANES * i));
            for (int i = 0; i < taps * taps; i++)
                products[i] += total(load_f32(scratch + LANES * (taps + i)));
            memset(scratch, 0, sizeof(float) * size);
        }
    }
    free(scratch);
}
