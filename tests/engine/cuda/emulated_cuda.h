// CUDA's parts that the kernels use, on a CPU: a block's threads take turns.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <ucontext.h>
#include <vector>

#define EMULATED
#define __device__
#define __shared__ static
using std::max;
using std::min;

struct uint4 {
  uint32_t x, y, z, w;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
static float __bfloat162float(__nv_bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static __nv_bfloat16 __float2bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
static float __half2float(__half) { return 0; }  // only bfloat16 is run here
static __half __float2half(float) { return {0}; }

struct Place {
  int x, y, z;
};
static Place threadIdx, blockIdx, gridDim;

// Each thread runs until it waits for others, then the next one of its warp does. All of a warp wait as often as each
// other, so when one is back, its whole warp has come as far. A warp runs until it waits for the block: what one needs
// of another without waiting for it is not there, with the warps in the one order or the other.
static bool last_warp_first;
constexpr int MOST_THREADS = 256, STACK = 64 << 10;
static ucontext_t scheduler, contexts[MOST_THREADS];
static std::vector<char> stacks(MOST_THREADS * STACK);
static bool ended[MOST_THREADS], waiting[MOST_THREADS];
static int threads, arrived, generation;
static std::function<void()> kernel;

static void let_others_run() { swapcontext(&contexts[threadIdx.x], &scheduler); }

static void start() {
  kernel();
  ended[threadIdx.x] = true;
}

// Each of its threads, up to where it waits; whether any of them waits for its warp only.
static bool run_warp(int warp) {
  bool more = false;
  for (int thread = warp; thread < warp + 32; thread++) {
    if (ended[thread]) continue;
    waiting[thread] = false;
    threadIdx = {thread, 0, 0};
    swapcontext(&scheduler, &contexts[thread]);
    more = more || !(ended[thread] || waiting[thread]);
  }
  return more;
}

static void run_block(Place block, int count) {
  threads = count;
  arrived = 0;
  for (int thread = 0; thread < threads; thread++) {
    ended[thread] = false;
    getcontext(&contexts[thread]);
    contexts[thread].uc_stack.ss_sp = &stacks[thread * STACK];
    contexts[thread].uc_stack.ss_size = STACK;
    contexts[thread].uc_link = &scheduler;
    makecontext(&contexts[thread], start, 0);
  }
  blockIdx = block;
  while (std::count(ended, ended + threads, true) < threads)
    for (int turn = 0; turn < threads; turn += 32)
      while (run_warp(last_warp_first ? threads - 32 - turn : turn)) {}
}

static void __syncthreads() {
  const int mine = generation;
  if (++arrived == threads) {
    arrived = 0;
    generation++;
  }
  while (generation == mine) {
    waiting[threadIdx.x] = true;
    let_others_run();
  }
}

// What each thread of a warp gives the others, and takes of theirs.
template <typename Given, typename Take>
static auto exchange(const Given& given, Take take) {
  static Given all[2][MOST_THREADS];
  static int turns[MOST_THREADS];
  const int thread = threadIdx.x;
  const Given* warp = all[turns[thread] % 2] + thread / 32 * 32;
  all[turns[thread]++ % 2][thread] = given;  // the other half may still be read
  let_others_run();
  return take(warp);
}

static float __shfl_xor_sync(unsigned, float value, int distance) {
  return exchange(value, [=](const float* warp) { return warp[threadIdx.x % 32 ^ distance]; });
}

using Number = __nv_bfloat16;
using Numbers = std::vector<Number>;

static Numbers random_numbers(size_t count) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  Numbers numbers(count);
  for (auto& number : numbers) number = __float2bfloat16(normal(generator));
  return numbers;
}

// Whatever is behind the last column of [row and head, column, D] is not a number.
static void forget(Numbers& numbers, int head, int columns, int capacity, int D) {
  const size_t first = (size_t)head * capacity;
  std::fill(numbers.begin() + (first + columns) * D, numbers.begin() + (first + capacity) * D, Number{0x7fc0});
}

// The largest difference of a query's attention over `columns` keys and values from plain loops in double precision.
static double error(const Number* query, const Number* keys, const Number* values, const Number* out, int columns, int D) {
  std::vector<double> weights(columns);
  double highest = -1e300, sum = 0, worst = 0;
  for (int column = 0; column < columns; column++) {
    for (int i = 0; i < D; i++)
      weights[column] += __bfloat162float(query[i]) * (double)__bfloat162float(keys[column * D + i]) / std::sqrt(D);
    highest = max(highest, weights[column]);
  }
  for (auto& weight : weights) sum += weight = std::exp(weight - highest);
  for (int i = 0; i < D; i++) {
    double expected = 0;
    for (int column = 0; column < columns; column++)
      expected += weights[column] / sum * __bfloat162float(values[column * D + i]);
    const double difference = std::fabs(expected - __bfloat162float(out[i]));
    if (!std::isfinite(difference)) return INFINITY;
    worst = max(worst, difference);
  }
  return worst;
}

template <typename Merge>
static void run_merge(int queries, int D, Merge merge) {
  for (int block = 0; block < queries; block++)
    for (int thread = 0; thread < D; thread++) {
      blockIdx = {block, 0, 0};
      threadIdx = {thread, 0, 0};
      merge();
    }
}

static void run_grid(int threads) {
  for (int z = 0; z < gridDim.z; z++)
    for (int y = 0; y < gridDim.y; y++)
      for (int x = 0; x < gridDim.x; x++) run_block({x, y, z}, threads);
}
