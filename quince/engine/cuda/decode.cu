// Attention of one query a row over the first columns of that row's keys and values, as many as it has filled.
//
// A block has one row, HEADS query heads of one key head, and a part of the row's columns. Its warps take turns at the
// columns; within a warp, LANES lanes share a column, each with PART neighbouring numbers of it, so that every read
// is 16 bytes. Each lane keeps a running softmax of what it has seen, and all are merged at the end; where a row's
// columns are in several blocks (flash-decoding: Dao et al., 2023), by `merge_parts`.

namespace quince {

constexpr int WARPS = 8;   // of a block
constexpr int PART = 8;    // numbers that a lane has of a column
constexpr int AHEAD = 4;   // columns of a lane whose reads are on their way at once

__device__ inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float number(__half x) { return __half2float(x); }

template <typename T>
__device__ inline void read(float (&part)[PART], uint4 raw) {
  const T* numbers = reinterpret_cast<const T*>(&raw);
#pragma unroll
  for (int i = 0; i < PART; i++) part[i] = number(numbers[i]);
}

// Of some columns: the highest score, the sum of 2^(score - highest), and the same sum with a part of the values.
struct Softmax {
  float highest = LOWEST;
  float weight = 0;
  float output[PART] = {};

  __device__ void scale_to(float higher) {
    const float factor = exp2f(highest - higher);
    highest = higher;
    weight *= factor;
#pragma unroll
    for (int i = 0; i < PART; i++) output[i] *= factor;
  }

  // Of the same part of other columns, which another lane has.
  __device__ void merge_with_lane(int distance) {
    const float theirs = __shfl_xor_sync(0xffffffff, highest, distance);
    const float higher = fmaxf(highest, theirs);
    scale_to(higher);
    weight += __shfl_xor_sync(0xffffffff, weight, distance);
#pragma unroll
    for (int i = 0; i < PART; i++) output[i] += __shfl_xor_sync(0xffffffff, output[i], distance);
  }
};

template <typename T, int D, int HEADS, bool SPLIT>
__device__ void decode_attention(
    const T* queries, Index query_row, Index query_head,
    const T* keys, Index key_row, Index key_head, Index key_column,
    const T* values, Index value_row, Index value_head, Index value_column,
    const int* lengths, const float* scale, int group,
    T* out, float* parts, float* sums) {
  constexpr int LANES = D / PART;
  constexpr int COLUMNS = WARP / LANES;  // that a warp has at once
  constexpr int STRIDE = WARPS * COLUMNS;
  __shared__ float outputs[WARPS][HEADS][D];
  __shared__ float highest[WARPS][HEADS];
  __shared__ float weights[WARPS][HEADS];

  const int warp = threadIdx.x / WARP;
  const int place = threadIdx.x % WARP / LANES;  // of this lane's column among the warp's
  const int first_number = threadIdx.x % LANES * PART;
  const int row = blockIdx.z, head = blockIdx.y * HEADS, heads = gridDim.y * HEADS;
  const int count = lengths[row];
  const int span = (count + gridDim.x - 1) / gridDim.x;
  const int begin = blockIdx.x * span, end = min(begin + span, count);

  queries += row * query_row + head * query_head + first_number;
  keys += row * key_row + head / group * key_head + first_number;
  values += row * value_row + head / group * value_head + first_number;

  float query[HEADS][PART];
  const float factor = *scale * LOG2_E;
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    read<T>(query[h], *reinterpret_cast<const uint4*>(queries + h * query_head));
#pragma unroll
    for (int i = 0; i < PART; i++) query[h][i] *= factor;
  }

  Softmax softmax[HEADS];
  for (int at = begin + warp * COLUMNS; at < end; at += STRIDE * AHEAD) {
    uint4 key[AHEAD], value[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      const Index column = min(at + a * STRIDE + place, end - 1);
      key[a] = *reinterpret_cast<const uint4*>(keys + column * key_column);
      value[a] = *reinterpret_cast<const uint4*>(values + column * value_column);
    }
    float score[HEADS][AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      float part[PART];
      read<T>(part, key[a]);
#pragma unroll
      for (int h = 0; h < HEADS; h++) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < PART; i++) sum += query[h][i] * part[i];
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
        score[h][a] = at + a * STRIDE + place < end ? sum : LOWEST;
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      float higher = softmax[h].highest;
#pragma unroll
      for (int a = 0; a < AHEAD; a++) higher = fmaxf(higher, score[h][a]);
      softmax[h].scale_to(higher);
    }
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      float part[PART];
      read<T>(part, value[a]);
      const bool inside = at + a * STRIDE + place < end;
#pragma unroll
      for (int h = 0; h < HEADS; h++) {
        const float weight = inside ? exp2f(score[h][a] - softmax[h].highest) : 0;
        softmax[h].weight += weight;
#pragma unroll
        for (int i = 0; i < PART; i++) softmax[h].output[i] += weight * part[i];
      }
    }
  }

#pragma unroll
  for (int h = 0; h < HEADS; h++) {
#pragma unroll
    for (int distance = LANES; distance < WARP; distance *= 2) softmax[h].merge_with_lane(distance);
    if (place == 0) {
#pragma unroll
      for (int i = 0; i < PART; i++) outputs[warp][h][first_number + i] = softmax[h].output[i];
      highest[warp][h] = softmax[h].highest;
      weights[warp][h] = softmax[h].weight;
    }
  }
  __syncthreads();

  for (int at = threadIdx.x; at < HEADS * D; at += WARP * WARPS) {
    const int h = at / D, number = at % D;
    float higher = LOWEST, weight = 0, output = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) higher = fmaxf(higher, highest[w][h]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float share = exp2f(highest[w][h] - higher);
      weight += share * weights[w][h];
      output += share * outputs[w][h][number];
    }
    const Index index = row * heads + head + h;
    if constexpr (SPLIT) {
      const Index part = index * gridDim.x + blockIdx.x;
      parts[part * D + number] = output;
      if (number == 0) {
        sums[part * 2] = higher;
        sums[part * 2 + 1] = weight;
      }
    } else {
      assign(out[index * D + number], output / weight);
    }
  }
}

}  // namespace quince
