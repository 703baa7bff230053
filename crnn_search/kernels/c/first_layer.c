/* The first layer: a convolution of one channel, pooling and ReLU, straight from the pixels. */
#include "vectors.h"

#define SIZE 28 /* rows and columns of an image */
#define MAX_PADDED (2 * SIZE)
#ifdef __AVX512VL__
#define MANY 1 /* vector registers: 32, not 16 */
#else
#define MANY 0
#endif

/* One image with zeros around it. pixels: uint8 (wide = 0) or float32 (wide = 1). */
typedef struct {
    float pixels[MAX_PADDED * MAX_PADDED + LANES];
    uint64_t ink[MAX_PADDED]; /* of each row, the columns that are not zero, as bits */
} Padded;

/* Which numbers are not zero, as bits. */
INLINE uint32_t bits_of(V v) {
#ifdef __AVX2__
    return _mm256_movemask_ps((__m256)(I)(v != 0));
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint32_t)(v[i] != 0) << i;
    return bits;
#endif
}

INLINE void pad(const void *pixels, long image, int wide, int before, int width, Padded *padded) {
    static const int places[] = {0, LANES, 2 * LANES, SIZE - LANES}; /* the last two overlap */
    memset(padded->pixels, 0, sizeof(float) * (width * width + LANES));
    memset(padded->ink, 0, sizeof padded->ink);
    for (int y = 0; y < SIZE; y++) {
        float *row = padded->pixels + (y + before) * width + before;
        const long at = (image * SIZE + y) * SIZE;
        uint64_t ink = 0;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int x = places[i];
            V v;
            if (wide) {
                v = load_floats((const float *)pixels + at + x);
            } else {
                B eight;
                memcpy(&eight, (const uint8_t *)pixels + at + x, sizeof eight);
                v = __builtin_convertvector(widen(eight), V);
            }
            store_floats(row + x, v);
            ink |= (uint64_t)bits_of(v) << x;
        }
        padded->ink[y + before] = ink << before;
    }
}

typedef struct {
    int kernel, side, channels; /* side: windows along a pooled map */
    int before, width;          /* zeros before an image; its size with all zeros around */
} Shape;

/* The products of some windows beside one another, and of one or two times eight channels. */
INLINE void stem_windows(const int pool, int wide, const int windows, const int blocks,
                         Shape s, int c, const float *corner, const float *kernel,
                         const float *bias, void *out, uint8_t *choice, long at) {
    const int lanes = filled(s.channels);
    V sum[2][MAX_PLACES][2];
    for (int w = 0; w < windows; w++)
        for (int place = 0; place < pool * pool; place++)
            for (int b = 0; b < blocks; b++) sum[w][place][b] = load_floats(bias + c + LANES * b);
    const float *weights = kernel + c;
    for (int i = 0; i < s.kernel; i++)
        for (int j = 0; j < s.kernel; j++, weights += lanes) {
            const float *tap = corner + i * s.width + j;
            V weight[2];
            for (int b = 0; b < blocks; b++) weight[b] = load_floats(weights + LANES * b);
#pragma GCC unroll 2
            for (int w = 0; w < windows; w++)
#pragma GCC unroll 16
                for (int place = 0; place < pool * pool; place++)
#pragma GCC unroll 2
                    for (int b = 0; b < blocks; b++)
                        sum[w][place][b] +=
                            weight[b] * tap[place / pool * s.width + place % pool + w * pool];
        }
    for (int w = 0; w < windows; w++)
        for (int b = 0; b < blocks; b++) {
            V best = sum[w][0][b];
            I chosen = {0};
#pragma GCC unroll 16
            for (int place = 1; place < pool * pool; place++)
                take_larger(&best, &chosen, sum[w][place][b], place);
            relu(&best, &chosen);
            int first = c + LANES * b, count = s.channels - first;
            store(out, at + w * s.channels + first, wide, count, best);
            store_choice(choice + at + w * s.channels + first, count, chosen);
        }
}

/* Columns, as bits, that some row has ink in which the windows of map row y see. */
INLINE uint64_t seen(const int pool, Shape s, const Padded *padded, int y) {
    uint64_t columns = 0;
    for (int i = 0; i < pool + s.kernel - 1; i++) columns |= padded->ink[y * pool + i];
    return columns;
}

/* Whether windows from x on see no ink at all, as near half of MNIST's do. */
INLINE int blank(const int pool, Shape s, uint64_t columns, int x, int windows) {
    return !(columns >> x * pool & ((1ull << (windows * pool + s.kernel - 1)) - 1));
}

INLINE void stem_forward_as(const int pool, int wide, long images, const void *pixels,
                            int wide_pixels, Shape s, const float *kernel, const float *bias,
                            void *out, uint8_t *choice) {
    Padded padded;
    for (long image = 0; image < images; image++) {
        pad(pixels, image, wide_pixels, s.before, s.width, &padded);
        for (int y = 0; y < s.side; y++) {
            const uint64_t columns = seen(pool, s, &padded, y);
            for (int x = 0; x < s.side;) {
                const float *corner = padded.pixels + y * pool * s.width + x * pool;
                long at = ((image * s.side + y) * s.side + x) * s.channels;
                if (blank(pool, s, columns, x, 1)) {
                    for (int c = 0; c < s.channels; c += LANES) {
                        V best = load_floats(bias + c);
                        I chosen = {0};
                        relu(&best, &chosen);
                        store(out, at + c, wide, s.channels - c, best);
                        store_choice(choice + at + c, s.channels - c, chosen);
                    }
                    x++;
                    continue;
                }
                /* Enough sums at once to hide how long a product takes, few enough for registers. */
                int beside = pool <= 2 && x + 1 < s.side && (MANY || s.channels <= LANES) ? 2 : 1;
#define WINDOWS(windows, blocks) \
    stem_windows(pool, wide, windows, blocks, s, c, corner, kernel, bias, out, choice, at)
                for (int c = 0; c < s.channels;) {
                    int two = s.channels - c > LANES && pool <= 3;
                    if (beside == 2 && two) WINDOWS(2, 2);
                    else if (beside == 2) WINDOWS(2, 1);
                    else if (two) WINDOWS(1, 2);
                    else WINDOWS(1, 1);
                    c += two ? 2 * LANES : LANES;
                }
#undef WINDOWS
                x += beside;
            }
        }
    }
}

void stem_forward(long images, int pool, const void *pixels, int wide_pixels, Shape s,
                  const float *kernel, const float *bias, void *out, int wide, uint8_t *choice) {
    WITH_POOL(stem_forward_as, wide, images, pixels, wide_pixels, s, kernel, bias, out, choice)
}

INLINE void stem_window_gradients(const int pool, int wide, const int blocks, int empty, Shape s, int c,
                                  const float *corner, const void *gradient,
                                  const uint8_t *choice, long at, float *of_kernel,
                                  float *of_bias) {
    const int lanes = filled(s.channels);
    V by_place[MAX_PLACES][2];
    for (int b = 0; b < blocks; b++) {
        int first = c + LANES * b, count = s.channels - first;
        V g = load(gradient, at + first, wide, count);
        I chosen = load_choice(choice + at + first, count);
        for (int place = 0; place < pool * pool; place++)
            by_place[place][b] = (V)((I)g & (chosen == place));
        float *sum = of_bias + first;
        store_floats(sum, load_floats(sum) + (V)((I)g & (chosen != NONE)));
    }
    if (empty) return;
    float *weights = of_kernel + c;
    for (int i = 0; i < s.kernel; i++)
        for (int j = 0; j < s.kernel; j++, weights += lanes) {
            const float *tap = corner + i * s.width + j;
            V sum[2];
            for (int b = 0; b < blocks; b++) sum[b] = load_floats(weights + LANES * b);
#pragma GCC unroll 16
            for (int place = 0; place < pool * pool; place++)
#pragma GCC unroll 2
                for (int b = 0; b < blocks; b++)
                    sum[b] += by_place[place][b] * tap[place / pool * s.width + place % pool];
            for (int b = 0; b < blocks; b++) store_floats(weights + LANES * b, sum[b]);
        }
}

INLINE void stem_backward_as(const int pool, int wide, long images, const void *pixels,
                             int wide_pixels, Shape s, const void *gradient, const uint8_t *choice,
                             float *of_kernel, float *of_bias, float *scratch) {
    Padded padded;
    const int lanes = filled(s.channels);
    const int weights = s.kernel * s.kernel * lanes;
    for (long image = 0; image < images; image++) {
        pad(pixels, image, wide_pixels, s.before, s.width, &padded);
        memset(scratch, 0, sizeof(float) * (weights + lanes));
        for (int y = 0; y < s.side; y++) {
            const uint64_t columns = seen(pool, s, &padded, y);
            for (int x = 0; x < s.side; x++) {
                const int empty = blank(pool, s, columns, x, 1);
                const float *corner = padded.pixels + y * pool * s.width + x * pool;
                long at = ((image * s.side + y) * s.side + x) * s.channels;
#define GRADIENTS(blocks)                                                                   \
    stem_window_gradients(pool, wide, blocks, empty, s, c, corner, gradient, choice, at, scratch, \
                          scratch + weights)
                for (int c = 0; c < s.channels;) {
                    int two = s.channels - c > LANES && pool <= 3;
                    if (two) GRADIENTS(2);
                    else GRADIENTS(1);
                    c += two ? 2 * LANES : LANES;
                }
#undef GRADIENTS
            }
        }
        for (int i = 0; i < weights; i++) of_kernel[i] += scratch[i];
        for (int i = 0; i < lanes; i++) of_bias[i] += scratch[weights + i];
    }
}

/* Adds to of_kernel and of_bias, which begin as zeros: each image's sums, made in scratch. */
void stem_backward(long images, int pool, const void *pixels, int wide_pixels, Shape s,
                   const void *gradient, int wide, const uint8_t *choice, float *of_kernel,
                   float *of_bias, float *scratch) {
    WITH_POOL(stem_backward_as, wide, images, pixels, wide_pixels, s, gradient, choice, of_kernel,
                   of_bias, scratch)
}

INLINE double total(V v) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* Sum of products of two rows over all places of the kernel along them; last: which of the last
 * eight are places. */
INLINE V row_product(const float *one, const float *other, int places, V last) {
    V sum = {0};
    int x = 0;
    for (; x + LANES < places; x += LANES) sum += load_floats(one + x) * load_floats(other + x);
    return sum + load_floats(one + x) * last * load_floats(other + x);
}

/* Sums of the pixels under each tap, `(k²,)`, and of products of two, `(k², k²)`, its upper
 * triangle, over all places of the kernel. Adds to both. A product depends on its rows' distance
 * and on its columns alone, so that it is summed along each row once, and rows are added by place.
 * scratch: room for `(1 + k²) k²` times eight floats. */
void pixel_moments(long images, const void *pixels, int wide_pixels, int k, int before, int width,
                   double *sums, double *products, float *scratch) {
    const int places = width - k + 1, taps = k * k; /* places: of the kernel, down and across */
    Padded padded;
    float ones[MAX_PADDED + LANES];
    V last, rows[MAX_PADDED];
    for (int i = 0; i < LANES; i++) last[i] = (places - 1) / LANES * LANES + i < places;
    for (int i = 0; i < MAX_PADDED + LANES; i++) ones[i] = 1;
    memset(scratch, 0, sizeof(float) * LANES * (1 + taps) * taps);
    for (long image = 0; image < images; image++) {
        pad(pixels, image, wide_pixels, before, width, &padded);
        for (int apart = -1; apart < k; apart++) /* -1: of single pixels */
            for (int j = 0; j < k; j++)
                for (int l = 0; l < (apart < 0 ? 1 : k); l++) {
                    int down = apart < 0 ? 0 : apart;
                    for (int y = 0; y < width - down; y++)
                        rows[y] = row_product(
                            padded.pixels + y * width + j,
                            apart < 0 ? ones : padded.pixels + (y + down) * width + l, places, last);
                    V window = {0};
                    for (int y = 0; y < places - 1; y++) window += rows[y];
                    for (int i = 0; i + down < k; i++) {
                        int first = i * k + j, second = (i + down) * k + l;
                        float *to = scratch + LANES * (apart < 0 ? first : taps + first * taps + second);
                        window += rows[i + places - 1];
                        store_floats(to, load_floats(to) + window);
                        window -= rows[i];
                    }
                }
        if (image % 64 == 63 || image == images - 1) { /* before float32 loses digits */
            for (int i = 0; i < taps; i++) sums[i] += total(load_floats(scratch + LANES * i));
            for (int i = 0; i < taps * taps; i++)
                products[i] += total(load_floats(scratch + LANES * (taps + i)));
            memset(scratch, 0, sizeof(float) * LANES * (1 + taps) * taps);
        }
    }
}
