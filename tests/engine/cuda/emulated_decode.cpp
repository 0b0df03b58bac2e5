// Runs decode.cu on a CPU and prints the largest error of each case. Compiled by test_decode_kernel.py.

#include "emulated_cuda.h"
#include KERNEL

template <int D, int HEADS>
void run(int heads, int group, const std::vector<int>& lengths, int capacity, int parts) {
  const int rows = lengths.size(), key_heads = heads / group;
  const long long head_size = (long long)capacity * D, row_size = key_heads * head_size;
  const Numbers queries = random_numbers(rows * heads * D);
  Numbers keys = random_numbers(rows * row_size), values = random_numbers(rows * row_size);
  for (int row = 0; row < rows; row++)
    for (int head = row * key_heads; head < (row + 1) * key_heads; head++)
      for (auto numbers : {&keys, &values}) forget(*numbers, head, lengths[row], capacity, D);
  Numbers out(queries.size());
  std::vector<float> outputs((size_t)rows * heads * parts * D), sums(rows * heads * parts * 2);
  const float scale = 1 / std::sqrt((float)D);

  gridDim = {parts, heads / HEADS, rows};
  kernel = [&] {
    const auto call = parts > 1 ? quince::decode_attention<Number, D, HEADS, true>
                                : quince::decode_attention<Number, D, HEADS, false>;
    call(queries.data(), heads * D, D, keys.data(), row_size, head_size, D, values.data(), row_size, head_size, D,
         lengths.data(), &scale, group, out.data(), outputs.data(), sums.data());
  };
  run_grid(256);
  if (parts > 1)
    run_merge(rows * heads, D, [&] { quince::merge_parts<Number, D>(outputs.data(), sums.data(), parts, out.data()); });

  double worst = 0;
  for (int row = 0; row < rows; row++)
    for (int head = 0; head < heads; head++) {
      const size_t query = (row * heads + head) * D, first = row * row_size + head / group * head_size;
      worst = max(worst, error(&queries[query], &keys[first], &values[first], &out[query], lengths[row], D));
    }
  printf("%g\n", worst);
}

static void run_all() {
  run<128, 2>(4, 2, {1, 37, 200}, 257, 1);
  run<128, 4>(8, 4, {5, 130}, 140, 3);
  run<64, 1>(3, 3, {64, 65}, 70, 1);
  run<64, 4>(4, 4, {2, 300}, 301, 7);  // of the shorter row, most parts are empty
  run<256, 4>(4, 4, {2, 99}, 100, 4);
  run<256, 1>(1, 1, {3}, 3, 5);  // more parts than columns
  run<128, 1>(2, 1, {63, 65}, 66, 1);
}

int main() {
  run_all();
  last_warp_first = true;
  run_all();
}
