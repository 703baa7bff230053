/* What a convolutional layer does beside its products, for one CPU core (`kernels.py`).
 *
 * Arrays are channels last: `(n, rows, columns, channels)`. Numbers of images lie in memory as
 * bfloat16 (wide = 0) or float32 (wide = 1) and are computed with in float32, eight channels at a
 * time. Weights and other numbers by channel have a multiple of eight channels, the rest zeros.
 *
 * A pooled map has beside each number a choice: which place of its window, counted by rows, had the
 * largest number, or NONE where ReLU made it zero. Of equal numbers the first is chosen.
 */
#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

#define LANES 8
#define NONE 255
#define SIZE 28 /* rows and columns of an image */
#define MAX_PADDED (2 * SIZE)

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef uint8_t B __attribute__((vector_size(LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE V all(float x) { return (V){x, x, x, x, x, x, x, x}; }

INLINE V choose(I mask, V yes, V no) { return (V)((mask & (I)yes) | (~mask & (I)no)); }

INLINE V load_floats(const float *from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store_floats(float *to, V v) { memcpy(to, &v, sizeof v); }

/* Copies up to eight numbers, in parts of known lengths: those are no calls. */
INLINE void copy(void *to, const void *from, const int size, int count) {
    if (count >= LANES) {
        memcpy(to, from, size * LANES);
        return;
    }
    char *t = to;
    const char *f = from;
    if (count & 4) memcpy(t, f, 4 * size), t += 4 * size, f += 4 * size;
    if (count & 2) memcpy(t, f, 2 * size), t += 2 * size, f += 2 * size;
    if (count & 1) memcpy(t, f, size);
}

/* Up to eight numbers, those beyond `count` zero. */
INLINE V load(const void *from, long at, const int wide, int count) {
    if (wide) {
        V v = {0};
        copy(&v, (const float *)from + at, 4, count);
        return v;
    }
    H h = {0};
    copy(&h, (const uint16_t *)from + at, 2, count);
    return (V)(__builtin_convertvector(h, U) << 16);
}

/* Rounds to the nearest bfloat16, ties to even; what is not a number stays none. */
INLINE void store(void *to, long at, const int wide, int count, V v) {
    if (wide) {
        copy((float *)to + at, &v, 4, count);
        return;
    }
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
    H h = (H)_mm256_cvtneps_pbh((__m256)v);
#else
    U u = (U)v, rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
    I none = v != v;
    H h = __builtin_convertvector(((U)none & 0x7FC0) | (~(U)none & rounded), H);
#endif
    copy((uint16_t *)to + at, &h, 2, count);
}

INLINE I load_choice(const uint8_t *from, int count) {
    B b = {0};
    copy(&b, from, 1, count);
    return __builtin_convertvector(b, I);
}

INLINE void store_choice(uint8_t *to, int count, I choice) {
    B b = __builtin_convertvector(choice, B);
    copy(to, &b, 1, count);
}

/* The larger of two; of what is not a number, the last counts as larger. */
INLINE void take_larger(V *best, I *choice, V other, int place) {
    I larger = ~(other <= *best);
    *best = choose(larger, other, *best);
    *choice = (larger & place) | (~larger & *choice);
}

INLINE void relu(V *best, I *choice) {
    I dead = *best <= 0;
    *best = choose(dead, all(0), *best);
    *choice |= dead & NONE;
}

/* Calls with the pooling, or the number format, too, as a constant, so that no loop asks for it. */
#define WITH_POOL(function, ...)                        \
    switch (pool) {                                     \
        case 1: function(1, __VA_ARGS__); break;        \
        case 2: function(2, __VA_ARGS__); break;        \
        case 3: function(3, __VA_ARGS__); break;        \
        case 4: function(4, __VA_ARGS__); break;        \
    }
#define WITH_CONSTANTS(function, ...)                   \
    if (wide) {                                         \
        WITH_POOL(function, 1, __VA_ARGS__)             \
    } else {                                            \
        WITH_POOL(function, 0, __VA_ARGS__)             \
    }
#define MAX_PLACES 16

/* ---- The first layer: a convolution of one channel, pooling and ReLU ---- */

/* One image with zeros around it. pixels: uint8 (wide = 0) or float32 (wide = 1). */
typedef struct {
    float pixels[MAX_PADDED * MAX_PADDED + LANES];
    uint64_t ink[MAX_PADDED]; /* of each row, the columns that are not zero, as bits */
} Padded;

INLINE void pad(const void *pixels, long image, int wide, int before, int width, Padded *padded) {
    memset(padded->pixels, 0, sizeof(float) * (width * width + LANES));
    memset(padded->ink, 0, sizeof padded->ink);
    for (int y = 0; y < SIZE; y++) {
        float *row = padded->pixels + (y + before) * width + before;
        long at = (image * SIZE + y) * SIZE;
        if (wide)
            for (int x = 0; x < SIZE; x++) row[x] = ((const float *)pixels)[at + x];
        else
            for (int x = 0; x < SIZE; x++) row[x] = ((const uint8_t *)pixels)[at + x];
        uint32_t ink = 0;
        for (int x = 0; x < SIZE; x++) ink |= (uint32_t)(row[x] != 0) << x;
        padded->ink[y + before] = (uint64_t)ink << before;
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
    const int lanes = (s.channels + LANES - 1) / LANES * LANES;
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
                int beside = pool <= 2 && x + 1 < s.side ? 2 : 1;
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
    const int lanes = (s.channels + LANES - 1) / LANES * LANES;
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
    const int lanes = (s.channels + LANES - 1) / LANES * LANES;
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

/* ---- Any other layer, after its convolution: normalising, pooling and ReLU ---- */

typedef struct {
    int rows, columns, channels;
} Map;

/* Calls for each eight channels with their number as a constant, but for what is left over. */
#define BY_BLOCK(channels, function, ...)                                          \
    for (int c = 0; c < (channels); c += LANES) {                                  \
        if ((channels)-c >= LANES)                                                 \
            function(LANES, c, __VA_ARGS__);                                       \
        else                                                                       \
            function((channels)-c, c, __VA_ARGS__);                                \
    }

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
                       uint8_t *choice) {
    V a = load_floats(gain + c), b = load_floats(shift + c);
    V best = load(map, corner + c, wide, count) * a + b;
    I chosen = {0};
#pragma GCC unroll 16
    for (int place = 1; place < pool * pool; place++) {
        long at = corner + c + (place / pool * m.columns + place % pool) * m.channels;
        take_larger(&best, &chosen, load(map, at, wide, count) * a + b, place);
    }
    relu(&best, &chosen);
    store(out, to + c, wide, count, best);
    store_choice(choice + to + c, count, chosen);
}

INLINE void pool_forward_as(const int pool, const int wide, long images, const void *map, Map m,
                            const float *gain, const float *shift, void *out, uint8_t *choice) {
    const int rows = m.rows / pool, columns = m.columns / pool;
    long to = 0;
    for (long image = 0; image < images; image++)
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++, to += m.channels) {
                long corner = ((image * m.rows + y * pool) * m.columns + x * pool) * m.channels;
                BY_BLOCK(m.channels, pool_block, pool, wide, corner, to, map, m, gain, shift, out,
                         choice)
            }
}

/* ReLU of the largest of a window's numbers, each times gain plus shift. */
void pool_forward(long images, int pool, const void *map, int wide, Map m, const float *gain,
                  const float *shift, void *out, uint8_t *choice) {
    WITH_CONSTANTS(pool_forward_as, images, map, m, gain, shift, out, choice)
}

INLINE void sums_block(int count, int c, const int pool, const int wide, long image,
                       const void *gradient, const uint8_t *choice, const void *map, Map m,
                       double *sums, double *products) {
    const int rows = m.rows / pool, columns = m.columns / pool;
    V sum = {0}, product = {0};
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++) {
            long from = ((image * rows + y) * columns + x) * m.channels + c;
            long corner = ((image * m.rows + y * pool) * m.columns + x * pool) * m.channels + c;
            I chosen = load_choice(choice + from, count);
            V g = (V)((I)load(gradient, from, wide, count) & (chosen != NONE));
            V value = {0};
#pragma GCC unroll 16
            for (int place = 0; place < pool * pool; place++) {
                long at = corner + (place / pool * m.columns + place % pool) * m.channels;
                value = choose(chosen == place, load(map, at, wide, count), value);
            }
            sum += g;
            product += g * value;
        }
    for (int i = 0; i < count; i++) {
        sums[c + i] += sum[i];
        products[c + i] += product[i];
    }
}

INLINE void pool_backward_sums_as(const int pool, const int wide, long images,
                                  const void *gradient, const uint8_t *choice, const void *map,
                                  Map m, double *sums, double *products) {
    for (long image = 0; image < images; image++)
        BY_BLOCK(m.channels, sums_block, pool, wide, image, gradient, choice, map, m, sums,
                 products)
}

/* Sums of gradients, and of gradients times the numbers that were chosen, by channel. Adds to
 * both. */
void pool_backward_sums(long images, int pool, const void *gradient, const uint8_t *choice,
                        const void *map, int wide, Map m, double *sums, double *products) {
    WITH_CONSTANTS(pool_backward_sums_as, images, gradient, choice, map, m, sums, products)
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

/* ---- Products too small for the kernels of libraries ---- */

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

/* One or an even number, for as few kinds of tiles. */
INLINE int even(long rows) { return rows == 1 ? 1 : rows < MAX_TILE ? rows & ~1 : MAX_TILE; }

/* Rows of each tile, when tiles may overlap: as few tiles as can be, as small as can be. */
INLINE int tile_of(int rows) {
    int tiles = (rows + MAX_TILE - 1) / MAX_TILE, each = (rows + tiles - 1) / tiles;
    return each + (each & 1) <= rows ? each + (each & 1) : even(rows);
}

/* One image's map of eight channels as float32, zeros around it. */
INLINE void pad_map(int wide, const void *map, long image, int rows, int columns, int before,
                    int wide_rows, int wide_columns, float *padded) {
    memset(padded, 0, sizeof(float) * wide_rows * wide_columns * LANES);
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++)
            store_floats(padded + ((y + before) * wide_columns + x + before) * LANES,
                         load(map, ((image * rows + y) * columns + x) * LANES, wide, LANES));
}

INLINE void conv_tile(const int tile, int wide, int kernel, int columns, const float *corner,
                      const float *weights, void *out, long at) {
    V sums[MAX_TILE];
    for (int i = 0; i < tile; i++) sums[i] = all(0);
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel; j++, weights += LANES * LANES)
            tile_product(tile, LANES, corner + (i * columns + j) * LANES, LANES, weights, sums);
    for (int i = 0; i < tile; i++) store(out, at + (long)i * LANES, wide, LANES, sums[i]);
}

/* Correlates a map of eight channels with a kernel, eight channels out. weights: `(k, k, 8, 8)`,
 * input before output. padded: room for one padded image. */
void conv(long images, const void *map, int wide, Map m, int kernel, int before, int after,
          const float *weights, void *out, float *padded) {
    const int rows = m.rows + before + after, columns = m.columns + before + after;
    const int high = rows - kernel + 1, across = columns - kernel + 1, tile = tile_of(across);
    for (long image = 0; image < images; image++) {
        pad_map(wide, map, image, m.rows, m.columns, before, rows, columns, padded);
        for (int y = 0; y < high; y++)
            for (int x = 0; x < across; x += tile) {
                int first = x + tile <= across ? x : across - tile; /* some are made twice */
                const float *corner = padded + (y * columns + first) * LANES;
                long at = ((image * high + y) * across + first) * LANES;
                WITH_TILE(tile, conv_tile, wide, kernel, columns, corner, weights, out, at)
            }
    }
}

/* The gradient of such weights. Adds to of_weights. own: room for the gradient of one image. */
void conv_weights(long images, const void *map, int wide, Map m, const void *gradient, int kernel,
                  int before, int after, float *of_weights, float *padded, float *own) {
    const int rows = m.rows + before + after, columns = m.columns + before + after;
    const int high = rows - kernel + 1, across = columns - kernel + 1;
    for (long image = 0; image < images; image++) {
        pad_map(wide, map, image, m.rows, m.columns, before, rows, columns, padded);
        pad_map(wide, gradient, image, high, across, 0, high, across, own);
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

/* ---- A GRU's recurrence, all numbers float32; gates in the order reset, update, new ---- */

/* e to the power of x, relative error below 1e-7: 2^n times a polynomial of the rest. */
INLINE V exponential(V x) {
    I low = x < -87.0f, high = x > 88.0f;
    x = choose(low, all(-87.0f), choose(high, all(88.0f), x));
    V scaled = x * 1.44269504f;
    I n = __builtin_convertvector(scaled + choose(scaled < 0, all(-0.5f), all(0.5f)), I);
    V whole = __builtin_convertvector(n, V);
    x = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    V p = all(1.9875691500e-4f);
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    return p * (V)((n + 127) << 23);
}

INLINE V sigmoid(V x) { return 1.0f / (1.0f + exponential(-x)); }

/* Near zero by its series, where the difference of ones would lose digits. */
INLINE V hyperbolic_tangent(V x) {
    V square = x * x;
    V small = x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15 + square * (-17.0f / 315))));
    I near = square < 0.01f;
    V far = 2.0f * sigmoid(2.0f * x) - 1.0f;
    return choose(near, small, far);
}

#define FLOATS(from, at, count) load(from, at, 1, count)

INLINE void gru_tile(const int tile, int width, int first, const float *before, long row,
                     const float *gates, const float *weights, const float *bias, float *hidden,
                     float *sigmoids, float *new, float *states) {
    const int all_gates = 3 * width;
    for (int c = 0; c < all_gates; c += LANES) {
        V sums[MAX_TILE];
        for (int i = 0; i < tile; i++) sums[i] = load_floats(bias + c);
        if (!first) tile_product(tile, width, before, width, weights + (long)c * width, sums);
        for (int i = 0; i < tile; i++)
            store(hidden, (row + i) * all_gates + c, 1, all_gates - c, sums[i]);
    }
    for (int i = 0; i < tile; i++)
        for (int c = 0; c < width; c += LANES) {
            int count = width - c;
            long gate = (row + i) * all_gates + c, at = (row + i) * width + c;
            V r = sigmoid(FLOATS(gates, gate, count) + FLOATS(hidden, gate, count));
            V u = sigmoid(FLOATS(gates, gate + width, count) + FLOATS(hidden, gate + width, count));
            V n = hyperbolic_tangent(FLOATS(gates, gate + 2 * width, count) +
                                     r * FLOATS(hidden, gate + 2 * width, count));
            V was = first ? all(0) : FLOATS(before, i * width + c, count);
            store(sigmoids, 2 * (row + i) * width + c, 1, count, r);
            store(sigmoids, 2 * (row + i) * width + width + c, 1, count, u);
            store(new, at, 1, count, n);
            store(states, at, 1, count, n + u * (was - n));
        }
}

/* alive: rows of each step, falling. gates, hidden: `(N, 3H)`. weights: `(3H / 8, H, 8)`. bias:
 * `(3H)`, filled to a multiple of eight. sigmoids: `(N, 2H)`. new, states: `(N, H)`. */
void gru_forward(long steps, const int64_t *alive, int width, const float *gates,
                 const float *weights, const float *bias, float *hidden, float *sigmoids,
                 float *new, float *states) {
    long start = 0;
    for (long step = 0; step < steps; step++) {
        const float *before = step ? states + (start - alive[step - 1]) * width : states;
        for (long row = 0; row < alive[step];) {
            int tile = even(alive[step] - row);
            WITH_TILE(tile, gru_tile, width, step == 0, before + row * width, start + row, gates,
                      weights, bias, hidden, sigmoids, new, states)
            row += tile;
        }
        start += alive[step];
    }
}

INLINE void gru_gradient_tile(const int tile, int width, int first, const float *before, long row,
                              const float *of_states, const float *weights, const float *new,
                              const float *hidden, const float *sigmoids, float *of_hidden,
                              float *of_new, float *carried) {
    const int all_gates = 3 * width;
    for (int i = 0; i < tile; i++)
        for (int c = 0; c < width; c += LANES) {
            int count = width - c;
            long gate = (row + i) * all_gates + c, at = (row + i) * width + c;
            V r = FLOATS(sigmoids, 2 * (row + i) * width + c, count);
            V u = FLOATS(sigmoids, 2 * (row + i) * width + width + c, count);
            V n = FLOATS(new, at, count);
            V was = first ? all(0) : FLOATS(before, i * width + c, count);
            V state = FLOATS(carried, i * width + c, count) + FLOATS(of_states, at, count);
            V of_n = state * (1.0f - u) * (1.0f - n * n);
            V of_r = of_n * FLOATS(hidden, gate + 2 * width, count) * r * (1.0f - r);
            store(of_new, at, 1, count, of_n);
            store(of_hidden, gate, 1, count, of_r);
            store(of_hidden, gate + width, 1, count, state * (was - n) * u * (1.0f - u));
            store(of_hidden, gate + 2 * width, 1, count, of_n * r);
            store(carried, i * width + c, 1, count, state * u);
        }
    if (first) return;
    for (int c = 0; c < width; c += LANES) {
        V sums[MAX_TILE];
        for (int i = 0; i < tile; i++) sums[i] = FLOATS(carried, i * width + c, width - c);
        tile_product(tile, all_gates, of_hidden + row * all_gates, all_gates,
                     weights + (long)c * all_gates, sums);
        for (int i = 0; i < tile; i++) store(carried, i * width + c, 1, width - c, sums[i]);
    }
}

/* weights: `(H / 8, 3H, 8)`. carried: `(B, H)`, at first the gradient of the last states. */
void gru_backward(long steps, const int64_t *alive, int width, const float *of_states,
                  const float *weights, const float *states, const float *new, const float *hidden,
                  const float *sigmoids, float *of_hidden, float *of_new, float *carried) {
    long start = 0;
    for (long step = 0; step < steps; step++) start += alive[step];
    for (long step = steps - 1; step >= 0; step--) {
        start -= alive[step];
        const float *before = step ? states + (start - alive[step - 1]) * width : states;
        for (long row = 0; row < alive[step];) {
            int tile = even(alive[step] - row);
            WITH_TILE(tile, gru_gradient_tile, width, step == 0, before + row * width, start + row,
                      of_states, weights, new, hidden, sigmoids, of_hidden, of_new,
                      carried + row * width)
            row += tile;
        }
    }
}
