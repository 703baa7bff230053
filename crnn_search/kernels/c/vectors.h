/* Eight numbers at a time, for one CPU core; the callers are in `kernels.py`.
 *
 * Arrays are channels last: `(n, rows, columns, channels)`. Numbers of images lie in memory as
 * bfloat16 (wide = 0) or float32 (wide = 1) and are computed with in float32. Weights and other
 * numbers by channel have a multiple of eight channels, the rest zeros.
 *
 * A pooled map has beside each number a choice: which place of its window, counted by rows, had the
 * largest number, or NONE where ReLU made it zero. Of equal numbers the first is chosen.
 */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 8
#define NONE 255

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef uint8_t B __attribute__((vector_size(LANES)));

typedef struct {
    int rows, columns, channels;
} Map;

#define INLINE static inline __attribute__((always_inline))

/* A number of channels, filled to a multiple of eight. */
INLINE int filled(int channels) { return (channels + LANES - 1) / LANES * LANES; }

INLINE V all(float x) { return (V){x, x, x, x, x, x, x, x}; }

/* Keeps a vector in a register: GCC else reads it from memory again for each product. */
#ifdef __AVX__
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v)
#endif

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

/* Bytes to numbers and back: what GCC makes of such a conversion is several times as long. */
INLINE I widen(B bytes) {
#ifdef __AVX2__
    int64_t all_bytes;
    memcpy(&all_bytes, &bytes, sizeof all_bytes);
    return (I)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(all_bytes));
#else
    return __builtin_convertvector(bytes, I);
#endif
}

INLINE B narrow(I numbers) {
#ifdef __AVX2__
    __m256i v = (__m256i)numbers;
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    int64_t all_bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    B bytes;
    memcpy(&bytes, &all_bytes, sizeof bytes);
    return bytes;
#else
    return __builtin_convertvector(numbers, B);
#endif
}

INLINE I load_choice(const uint8_t *from, int count) {
    B b = {0};
    copy(&b, from, 1, count);
    return widen(b);
}

INLINE void store_choice(uint8_t *to, int count, I choice) {
    B b = narrow(choice);
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

/* Calls for each eight channels with their number as a constant, but for what is left over. */
#define BY_BLOCK(channels, function, ...)                             \
    {                                                                 \
        int c = 0;                                                    \
        for (; c + LANES <= (channels); c += LANES)                   \
            function(LANES, c, __VA_ARGS__);                          \
        if (c < (channels)) function((channels)-c, c, __VA_ARGS__);   \
    }

/* Calls with one to six rows as a constant. */
#define WITH_ROWS(rows, function, ...)              \
    switch (rows) {                                 \
        case 1: function(1, __VA_ARGS__); break;    \
        case 2: function(2, __VA_ARGS__); break;    \
        case 3: function(3, __VA_ARGS__); break;    \
        case 4: function(4, __VA_ARGS__); break;    \
        case 5: function(5, __VA_ARGS__); break;    \
        case 6: function(6, __VA_ARGS__); break;    \
    }

#endif
