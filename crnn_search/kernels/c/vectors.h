/* Vectors of eight float32 values on one CPU core; `ops.py` and `gru.py` call the kernels.
 *
 * Maps are stored channels last, `(images, rows, columns, channels)`, as bfloat16 (is_f32 = 0) or
 * float32 (is_f32 = 1), and computed in float32. Weights and other values by channel are float32,
 * padded with zeros to a multiple of eight channels, their `lanes`.
 *
 * A pooled map has an argmax, uint8, for each value: the position of the maximum in its window,
 * counted by rows, or ZEROED where ReLU set it to zero. Of equal values the first is the maximum.
 */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 8
#define ZEROED 255

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef uint8_t B __attribute__((vector_size(LANES)));

typedef struct {
    int rows, columns, channels;
} Map;

#define INLINE static inline __attribute__((always_inline))

/* A number of channels, rounded up to a multiple of eight. */
INLINE int round_up(int channels) { return (channels + LANES - 1) / LANES * LANES; }

/* Scratch memory, not initialised; the caller frees it. */
INLINE float *allocate(long floats) {
    float *memory = malloc(sizeof(float) * floats);
    if (!memory) abort();
    return memory;
}

INLINE V broadcast(float x) { return (V){x, x, x, x, x, x, x, x}; }

/* Keeps a vector in a register: GCC would read it from memory again for each product. */
#ifdef __AVX__
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v)
#endif

/* Lane by lane: yes where the mask is set, else no. */
INLINE V blend(I mask, V yes, V no) { return (V)((mask & (I)yes) | (~mask & (I)no)); }

INLINE V load_f32(const float *from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store_f32(float *to, V v) { memcpy(to, &v, sizeof v); }

/* Copies up to eight values, in parts of constant size, which compile to moves, not calls. */
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

/* Up to eight values of a map; lanes from `count` on are zero. */
INLINE V load(const void *from, long at, const int is_f32, int count) {
    if (is_f32) {
        V v = {0};
        copy(&v, (const float *)from + at, 4, count);
        return v;
    }
    H h = {0};
    copy(&h, (const uint16_t *)from + at, 2, count);
    return (V)(__builtin_convertvector(h, U) << 16);
}

/* Rounds to the nearest bfloat16, ties to even; NaN propagates. */
INLINE void store(void *to, long at, const int is_f32, int count, V v) {
    if (is_f32) {
        copy((float *)to + at, &v, 4, count);
        return;
    }
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
    H h = (H)_mm256_cvtneps_pbh((__m256)v);
#else
    U u = (U)v, rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
    I is_nan = v != v;
    H h = __builtin_convertvector(((U)is_nan & 0x7FC0) | (~(U)is_nan & rounded), H);
#endif
    copy((uint16_t *)to + at, &h, 2, count);
}

/* Eight bytes to int32 and back; GCC compiles the plain conversion to several times the code. */
INLINE I widen(B bytes) {
#ifdef __AVX2__
    int64_t packed;
    memcpy(&packed, &bytes, sizeof packed);
    return (I)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(packed));
#else
    return __builtin_convertvector(bytes, I);
#endif
}

INLINE B narrow(I values) {
#ifdef __AVX2__
    __m256i v = (__m256i)values;
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    int64_t packed = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    B bytes;
    memcpy(&bytes, &packed, sizeof bytes);
    return bytes;
#else
    return __builtin_convertvector(values, B);
#endif
}

INLINE I load_argmax(const uint8_t *from, int count) {
    B b = {0};
    copy(&b, from, 1, count);
    return widen(b);
}

INLINE void store_argmax(uint8_t *to, int count, I argmax) {
    B b = narrow(argmax);
    copy(to, &b, 1, count);
}

/* One step of a maximum over a window. NaN propagates, as in PyTorch. */
INLINE void update_max(V *max, I *argmax, V value, int position) {
    I larger = (value > *max) | (value != value);
    *max = blend(larger, value, *max);
    *argmax = (larger & position) | (~larger & *argmax);
}

INLINE void relu(V *max, I *argmax) {
    I zeroed = *max <= 0;
    *max = blend(zeroed, broadcast(0), *max);
    *argmax |= zeroed & ZEROED;
}

/* Adds the sums of `values` values and of their squares, by channel, given those of their
 * differences from `shift`: small ones, whose squares lose no digits in float32. */
INLINE void add_shifted(int count, double values, V shift, V sum, V square, double *sums,
                        double *squares) {
    for (int i = 0; i < count; i++) {
        const double s = shift[i], d = sum[i];
        sums[i] += d + values * s;
        squares[i] += square[i] + 2 * s * d + values * s * s;
    }
}

/* Calls a function with the pooling, and with the dtype, as a constant, for loops without branches.
 * `native.call` checks both; anything else is a bug and ends the process. */
#define WITH_POOL(function, ...)                        \
    switch (pool) {                                     \
        case 1: function(1, __VA_ARGS__); break;        \
        case 2: function(2, __VA_ARGS__); break;        \
        case 3: function(3, __VA_ARGS__); break;        \
        case 4: function(4, __VA_ARGS__); break;        \
        default: abort();                               \
    }
#define WITH_POOL_AND_DTYPE(function, ...)              \
    if (is_f32) {                                       \
        WITH_POOL(function, 1, __VA_ARGS__)             \
    } else {                                            \
        WITH_POOL(function, 0, __VA_ARGS__)             \
    }
#define MAX_WINDOW 16 /* values of a window: 4 × 4 */

/* Calls a function for each eight channels with the constant 8, then for those left over. */
#define BY_BLOCK(channels, function, ...)                             \
    {                                                                 \
        int c = 0;                                                    \
        for (; c + LANES <= (channels); c += LANES)                   \
            function(LANES, c, __VA_ARGS__);                          \
        if (c < (channels)) function((channels)-c, c, __VA_ARGS__);   \
    }

#endif
