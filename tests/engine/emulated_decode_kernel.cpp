// Runs decode_kernel.cu on a CPU, a block's threads taking turns, and compares it with plain loops in double
// precision. Prints the largest difference of each case; whatever is behind a row's last column is not a number.
// Compiled by test_decode_kernel.py, which puts the kernel's source where KERNEL is and its includes away.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <ucontext.h>
#include <vector>

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

// Each thread runs until it waits for others, then the next one does. All of a warp wait as often as each other, so
// when one is back, its whole warp has come as far.
constexpr int THREADS = 256;
static ucontext_t scheduler, contexts[THREADS];
static std::vector<char> stacks(THREADS * (64 << 10));
static bool ended[THREADS];
static int arrived, generation;
static float exchanged[2][THREADS];
static int exchanges[THREADS];
static std::function<void()> kernel;

static void let_others_run() { swapcontext(&contexts[threadIdx.x], &scheduler); }

static void start() {
  kernel();
  ended[threadIdx.x] = true;
}

static void run_block(Place block) {
  arrived = 0;
  for (int thread = 0; thread < THREADS; thread++) {
    ended[thread] = false;
    exchanges[thread] = 0;
    getcontext(&contexts[thread]);
    contexts[thread].uc_stack.ss_sp = &stacks[thread * (64 << 10)];
    contexts[thread].uc_stack.ss_size = 64 << 10;
    contexts[thread].uc_link = &scheduler;
    makecontext(&contexts[thread], start, 0);
  }
  blockIdx = block;
  for (int running = THREADS; running > 0;) {
    running = 0;
    for (int thread = 0; thread < THREADS; thread++) {
      if (ended[thread]) continue;
      running++;
      threadIdx = {thread, 0, 0};
      swapcontext(&scheduler, &contexts[thread]);
    }
  }
}

static void __syncthreads() {
  const int mine = generation;
  if (++arrived == THREADS) {
    arrived = 0;
    generation++;
  }
  while (generation == mine) let_others_run();
}

static float __shfl_xor_sync(unsigned, float value, int distance) {
  const int thread = threadIdx.x;
  float* shared = exchanged[exchanges[thread]++ % 2];  // the other half may still be read
  shared[thread] = value;
  let_others_run();
  return shared[thread / 32 * 32 + ((thread % 32) ^ distance)];
}

#include KERNEL

using Number = __nv_bfloat16;
using Numbers = std::vector<Number>;

static Numbers random_numbers(size_t count) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  Numbers numbers(count);
  for (auto& number : numbers) number = __float2bfloat16(normal(generator));
  return numbers;
}

template <int D, int HEADS>
void run(int heads, int group, const std::vector<int>& lengths, int capacity, int parts) {
  const int rows = lengths.size(), key_heads = heads / group;
  const auto at = [&](int row, int head, int column) { return ((size_t)(row * key_heads + head) * capacity + column) * D; };
  const Numbers queries = random_numbers(rows * heads * D);
  Numbers keys = random_numbers((size_t)rows * key_heads * capacity * D), values = random_numbers(keys.size());
  for (int row = 0; row < rows; row++)
    for (int head = 0; head < key_heads; head++)
      for (size_t i = at(row, head, lengths[row]); i < at(row, head, 0) + (size_t)capacity * D; i++)
        keys[i] = values[i] = {0x7fc0};
  Numbers out(queries.size());
  std::vector<float> outputs((size_t)rows * heads * parts * D), sums(rows * heads * parts * 2);
  const float scale = 1 / std::sqrt((float)D);

  gridDim = {parts, heads / HEADS, rows};
  const long long row_size = (long long)key_heads * capacity * D, head_size = (long long)capacity * D;
  kernel = [&] {
    const auto call = parts > 1 ? quince::decode_attention<Number, D, HEADS, true>
                                : quince::decode_attention<Number, D, HEADS, false>;
    call(queries.data(), heads * D, D, keys.data(), row_size, head_size, D, values.data(), row_size, head_size, D,
         lengths.data(), &scale, group, out.data(), outputs.data(), sums.data());
  };
  for (int z = 0; z < gridDim.z; z++)
    for (int y = 0; y < gridDim.y; y++)
      for (int x = 0; x < gridDim.x; x++) run_block({x, y, z});
  if (parts > 1)
    for (int block = 0; block < rows * heads; block++)
      for (int thread = 0; thread < D; thread++) {
        blockIdx = {block, 0, 0};
        threadIdx = {thread, 0, 0};
        quince::merge_parts<Number, D>(outputs.data(), sums.data(), parts, out.data());
      }

  double worst = 0;
  for (int row = 0; row < rows; row++)
    for (int head = 0; head < heads; head++) {
      const Number* query = &queries[(row * heads + head) * D];
      std::vector<double> weights(lengths[row]);
      double highest = -1e300, sum = 0;
      for (int column = 0; column < lengths[row]; column++) {
        const Number* key = &keys[at(row, head / group, column)];
        for (int i = 0; i < D; i++) weights[column] += (double)__bfloat162float(query[i]) * __bfloat162float(key[i]) * scale;
        highest = max(highest, weights[column]);
      }
      for (auto& weight : weights) sum += weight = std::exp(weight - highest);
      for (int i = 0; i < D; i++) {
        double expected = 0;
        for (int column = 0; column < lengths[row]; column++)
          expected += weights[column] / sum * __bfloat162float(values[at(row, head / group, column) + i]);
        const double error = std::fabs(expected - __bfloat162float(out[(row * heads + head) * D + i]));
        if (!(error <= worst)) worst = error;  // one that is not a number, too
      }
    }
  printf("%g\n", worst);
}

int main() {
  run<128, 2>(4, 2, {1, 37, 200}, 257, 1);
  run<128, 4>(8, 4, {5, 130}, 140, 3);
  run<64, 1>(3, 3, {64, 65}, 70, 1);
  run<64, 4>(4, 4, {2, 300}, 301, 7);  // of the shorter row, most parts are empty
  run<256, 4>(4, 4, {2, 99}, 100, 4);
  run<256, 1>(1, 1, {3}, 3, 5);  // more parts than columns
  run<128, 1>(2, 1, {63, 65}, 66, 1);
}
