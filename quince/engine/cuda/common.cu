// What the attention kernels share. They sum with running softmaxes (Milakov and Gimelshein, 2018): of a part of the
// columns, the highest score, the sum of 2^(score - highest), and the same sum with the values.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace quince {

using Index = long long;

constexpr int WARP = 32;
constexpr float LOWEST = -3.0e38f;  // below all scores, and finite: two of them have a difference
constexpr float LOG2_E = 1.44269504f;

__device__ inline void assign(__nv_bfloat16& to, float x) { to = __float2bfloat16(x); }
__device__ inline void assign(__half& to, float x) { to = __float2half(x); }

// Of one query, from `count` parts of the columns, each with the sums of its own: a block for each query, with a
// thread for each number.
template <typename T, int D>
__device__ void merge_parts(const float* parts, const float* sums, int count, T* out) {
  parts += (Index)blockIdx.x * count * D + threadIdx.x;
  sums += (Index)blockIdx.x * count * 2;
  float higher = LOWEST, weight = 0, output = 0;
  for (int p = 0; p < count; p++) higher = fmaxf(higher, sums[p * 2]);
  for (int p = 0; p < count; p++) {
    const float share = exp2f(sums[p * 2] - higher);
    weight += share * sums[p * 2 + 1];
    output += share * parts[p * D];
  }
  assign(out[(Index)blockIdx.x * D + threadIdx.x], output / weight);
}

}  // namespace quince
