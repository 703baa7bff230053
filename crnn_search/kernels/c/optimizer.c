/* Clipping and an optimizer's step, for all parameters in one call. */
#include <math.h>

#include "vectors.h"

/* One parameter: its numbers, their gradients and moments, all in the same order. */
typedef struct {
    float *values;
    const float *gradients;
    float *first, *second; /* moments; RMSprop has the second alone */
    long count;
} Parameter;

/* first, second: what remains of a moment. clip: largest norm of all gradients, 0 is no clipping. */
typedef struct {
    float rate, decay, first, second, epsilon, clip;
    float first_bias, second_bias; /* Adam's corrections; first_bias 0 is RMSprop */
} Rule;

static double square_sum(const float *x, long count) {
    double sum = 0;
    for (long start = 0; start < count; start += 4096) { /* float32 would lose digits */
        const long end = start + 4096 < count ? start + 4096 : count;
        V sums[4] = {{0}};
        long i = start;
        for (; i + 4 * LANES <= end; i += 4 * LANES)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                V v = load_floats(x + i + k * LANES);
                sums[k] += v * v;
            }
        V all_sums = sums[0] + sums[1] + sums[2] + sums[3];
        for (int k = 0; k < LANES; k++) sum += all_sums[k];
        for (; i < end; i++) sum += (double)x[i] * x[i];
    }
    return sum;
}

/* Decoupled decay: Loshchilov and Hutter, arXiv:1711.05101. */
static void adamw(Parameter p, Rule r, float scale) {
    float *restrict values = p.values, *restrict first = p.first, *restrict second = p.second;
    const float *restrict gradients = p.gradients;
    const float step = r.rate / r.first_bias, root = sqrtf(r.second_bias);
    for (long i = 0; i < p.count; i++) {
        const float g = gradients[i] * scale;
        first[i] += (1 - r.first) * (g - first[i]);
        second[i] = r.second * second[i] + (1 - r.second) * g * g;
        values[i] = values[i] * (1 - r.rate * r.decay) -
                    step * first[i] / (sqrtf(second[i]) / root + r.epsilon);
    }
}

/* As PyTorch has it: decay is part of the gradient. */
static void rmsprop(Parameter p, Rule r, float scale) {
    float *restrict values = p.values, *restrict second = p.second;
    const float *restrict gradients = p.gradients;
    for (long i = 0; i < p.count; i++) {
        const float g = gradients[i] * scale + r.decay * values[i];
        second[i] = r.second * second[i] + (1 - r.second) * g * g;
        values[i] -= r.rate * g / (sqrtf(second[i]) + r.epsilon);
    }
}

void update(long parameters, const Parameter *list, Rule r) {
    float scale = 1;
    if (r.clip > 0) {
        double sum = 0;
        for (long i = 0; i < parameters; i++) sum += square_sum(list[i].gradients, list[i].count);
        scale = r.clip / ((float)sqrt(sum) + 1e-6f);
        if (scale > 1) scale = 1; /* what is not a number stays none */
    }
    for (long i = 0; i < parameters; i++) {
        if (r.first_bias != 0)
            adamw(list[i], r, scale);
        else
            rmsprop(list[i], r, scale);
    }
}
