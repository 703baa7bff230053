/* Whole numbers of 16 bits, two products at once and exact sums of 32 bits.
 *
 * Numbers are scaled so that no sum can leave 32 bits whatever is added: for that, the largest
 * number of one side and the sum of the other's absolute values, or both sides' Euclidean norms,
 * have to stay below LIMIT together. What is not finite gives a scale that is none. */
#ifndef INT16_H
#define INT16_H

#include <float.h>
#include <math.h>

#include "vectors.h"

#define LIMIT 2147483648.0f
#define MOST 32767.0f /* of one number */

/* Adds to each of eight sums the products of two numbers of 16 bits, which lie in one of 32. */
INLINE I add_pairs(I sum, I one, I other) {
#ifdef __AVX2__
    return sum + (I)_mm256_madd_epi16((__m256i)one, (__m256i)other);
#else
    return sum + (one << 16 >> 16) * (other << 16 >> 16) + (one >> 16) * (other >> 16);
#endif
}

/* Keeps a sum in its register, and its additions in their order: GCC else wants more registers than
 * there are. */
#ifdef __AVX__
#define KEEP_SUM(v) __asm__ volatile("" : "+x"(v))
#else
#define KEEP_SUM(v)
#endif

INLINE I load_pairs(const int32_t *from) {
    I v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store_pairs(int32_t *to, I v) { memcpy(to, &v, sizeof v); }

/* The same pair, eight times; at any address. */
INLINE I all_pairs(const void *from) {
    int32_t x;
    memcpy(&x, from, sizeof x);
    return (I){x, x, x, x, x, x, x, x};
}

/* To the nearest whole number. */
INLINE I whole(V v) {
#ifdef __AVX2__
    return (I)_mm256_cvtps_epi32((__m256)v);
#else
    return __builtin_convertvector(v + choose(v < 0, all(-0.5f), all(0.5f)), I);
#endif
}

/* Eight numbers that fit into 16 bits. */
INLINE void store_whole(int16_t *to, I v) {
#ifdef __AVX2__
    __m256i all_of = (__m256i)v;
    _mm_storeu_si128((__m128i *)to, _mm_packs_epi32(_mm256_castsi256_si128(all_of),
                                                    _mm256_extracti128_si256(all_of, 1)));
#else
    for (int i = 0; i < LANES; i++) to[i] = v[i];
#endif
}

/* Pairs of the numbers of one vector and those of another. */
INLINE I paired(I first, I second) { return (first & 0xFFFF) | (second << 16); }

/* The size of numbers, as bits that have the same order; what is no number is the largest. */
INLINE I size_bits(V v) { return (I)v & 0x7FFFFFFF; }

INLINE I larger(I one, I other) {
#ifdef __AVX2__
    return (I)_mm256_max_epi32((__m256i)one, (__m256i)other);
#else
    const I mask = one > other;
    return (mask & one) | (~mask & other);
#endif
}

INLINE float largest(I bits) {
    int32_t most = 0;
    for (int i = 0; i < LANES; i++) most = bits[i] > most ? bits[i] : most;
    float size;
    memcpy(&size, &most, sizeof size);
    return size;
}

/* What takes numbers to whole ones, `up`, and back, `down`, when `size` may become `limit`. */
typedef struct {
    float up, down;
} Scale;

INLINE Scale scale_of(float size, float limit) {
    if (size < 1e-30f) return (Scale){0, 0}; /* what would take it to whole ones is too large */
    if (!(size <= FLT_MAX)) return (Scale){0, NAN};
    return (Scale){limit / size, size / limit};
}

#endif
