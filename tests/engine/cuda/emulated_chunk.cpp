// Runs chunk.cu on a CPU and prints the largest error of each case. Compiled by test_chunk_kernel.py.

#include "emulated_cuda.h"

using Word = unsigned;  // two numbers

static float low(Word word) { return __bfloat162float({uint16_t(word)}); }
static float high(Word word) { return __bfloat162float({uint16_t(word >> 16)}); }
static Word joined(uint16_t low, uint16_t high) { return low | Word(high) << 16; }
static Word pack(float a, float b, Number) { return joined(__float2bfloat16(a).bits, __float2bfloat16(b).bits); }
static float power_of_two(float x) { return std::exp2(x); }

// As the PTX ISA says which lane has what ("Matrix Fragments for mma.m16n8k16").
static void multiply(float (&c)[4], const Word (&a)[4], Word b0, Word b1, Number) {
  struct Given {
    Word a[4], b[2];
  };
  exchange(Given{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](const Given* warp) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; k++) {
        const Word left = warp[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
        const Word right = warp[column * 4 + k % 8 / 2].b[k / 8];
        c[i] += k % 2 ? high(left) * high(right) : low(left) * low(right);
      }
    }
    return 0;
  });
}

static void load(Word (&to)[4], const void* row, bool transposed) {
  exchange(row, [&](const void* const* warp) {
    const int lane = threadIdx.x % 32, i = lane / 4, j = lane % 4 * 2;
    for (int matrix = 0; matrix < 4; matrix++) {
      const auto at = [&](int row, int column) { return ((const uint16_t*)warp[matrix * 8 + row])[column]; };
      to[matrix] = transposed ? joined(at(j, i), at(j + 1, i)) : joined(at(i, j), at(i, j + 1));
    }
    return 0;
  });
}
static void load_matrices(Word (&to)[4], const void* row) { load(to, row, false); }
static void load_transposed(Word (&to)[4], const void* row) { load(to, row, true); }

// Copies come when their thread waits for them, and until then what was there is not a number; or at once.
static bool copies_come_at_once;
struct Copy {
  void* to;
  char bytes[16];
};
static std::vector<Copy> copies[MOST_THREADS];
static std::vector<size_t> groups[MOST_THREADS];  // how many copies each has

static void copy_async(void* to, const void* from) {
  if (copies_come_at_once) {
    memcpy(to, from, 16);
    return;
  }
  Copy copy{to, {}};
  memcpy(copy.bytes, from, 16);
  copies[threadIdx.x].push_back(copy);
  std::fill_n((Number*)to, 8, Number{0x7fc0});
}
static void end_copies() {
  size_t before = 0;
  for (size_t size : groups[threadIdx.x]) before += size;
  groups[threadIdx.x].push_back(copies[threadIdx.x].size() - before);
}
template <int PENDING>
static void wait_for_copies() {
  auto& waiting = copies[threadIdx.x];
  auto& sizes = groups[threadIdx.x];
  while (sizes.size() > PENDING) {
    for (size_t i = 0; i < sizes[0]; i++) memcpy(waiting[i].to, waiting[i].bytes, 16);
    waiting.erase(waiting.begin(), waiting.begin() + sizes[0]);
    sizes.erase(sizes.begin());
  }
}

#include KERNEL

static_assert(quince::TILE == TILE_THERE && quince::QUERIES == QUERIES_THERE && quince::CHUNK_WARPS * 32 == BLOCK_THERE);

template <int D>
void run(int rows, int heads, int key_heads, int width, int columns, int capacity, int parts) {
  const int group = heads / key_heads;
  const long long head_size = (long long)capacity * D, row_size = key_heads * head_size;
  const long long value_size = (long long)(capacity + 3) * D;  // of a head: not as the keys
  const Numbers queries = random_numbers((size_t)rows * width * heads * D);  // token by token
  Numbers keys = random_numbers(rows * row_size), values = random_numbers(rows * key_heads * value_size);
  for (int head = 0; head < rows * key_heads; head++) {
    forget(keys, head, columns, capacity, D);
    forget(values, head, columns, capacity + 3, D);
  }
  Numbers out(queries.size());
  std::vector<float> outputs(out.size() * parts), sums(out.size() / D * parts * 2);
  std::vector<Number> shared((quince::QUERIES + 4 * quince::TILE) * D);
  const float scale = 1 / std::sqrt((float)D);

  gridDim = {(group * width + quince::QUERIES - 1) / quince::QUERIES, parts, rows * key_heads};
  kernel = [&] {
    const auto call = parts > 1 ? quince::chunk_attention<Number, D, true> : quince::chunk_attention<Number, D, false>;
    call(queries.data(), width * heads * D, D, heads * D, keys.data(), row_size, head_size, D, values.data(),
         key_heads * value_size, value_size, D, &scale, heads, key_heads, width, columns, out.data(), outputs.data(),
         sums.data(), shared.data());
  };
  run_grid(128);
  if (parts > 1)
    run_merge(rows * heads * width, D,
              [&] { quince::merge_parts<Number, D>(outputs.data(), sums.data(), parts, out.data()); });

  double worst = 0;
  for (int row = 0; row < rows; row++)
    for (int head = 0; head < heads; head++)
      for (int token = 0; token < width; token++) {
        const size_t query = ((row * width + token) * heads + head) * D;
        const int key_head = row * key_heads + head / group;
        const Number* found = parts > 1 ? &out[((size_t)(row * heads + head) * width + token) * D] : &out[query];
        worst = max(worst, error(&queries[query], &keys[key_head * head_size], &values[key_head * value_size], found, columns - width + token + 1, D));
      }
  printf("%g\n", worst);
}

static void run_all() {
  run<64>(1, 2, 1, 5, 70, 80, 1);
  run<128>(1, 4, 2, 37, 200, 257, 1);  // a block has tokens of several heads
  run<128>(2, 2, 1, 70, 150, 160, 3);
  run<64>(1, 3, 1, 16, 500, 514, 4);
  run<64>(1, 2, 2, 200, 260, 260, 2);  // the first block's tokens see none of the second part's columns
  run<64>(1, 1, 1, 130, 130, 130, 1);  // nothing before them
  run<64>(1, 8, 8, 1, 65, 65, 1);      // the last tile has one column
  run<64>(1, 1, 1, 4, 66, 66, 1);      // some of its tokens see two columns of it, some one
  run<64>(1, 2, 1, 100, 164, 164, 1);  // the last token of a block has fewer columns than others of it
}

int main() {
  run_all();
  last_warp_first = true;
  run_all();
  copies_come_at_once = true;
  run_all();
}
