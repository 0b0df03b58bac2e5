// Runs sample.cu on a CPU: prints how many tokens of each case are not those of plain loops.
#include "emulated_cuda.h"
#include <bit>
static uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static uint16_t __half_as_ushort(__half x) { return x.bits; }
static uint32_t __float_as_uint(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static int __clz(uint32_t x) { return std::countl_zero(x); }
static unsigned long long __shfl_xor_sync(unsigned, unsigned long long value, int distance) {
  return exchange(value, [=](const unsigned long long* warp) { return warp[threadIdx.x % 32 ^ distance]; });
}
#include KERNEL
using quince::Units;
template <typename T> T as(float x);
template <> float as<float>(float x) { return x; }
template <> __nv_bfloat16 as<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

struct Parameters {
  float temperature = 1, top_p = 1, min_p = 0, draw = 0;
  int top_k = 0;
};

template <typename T>
int expected(const T* logits, int count, Parameters row) {
  std::vector<float> x(count);
  for (int i = 0; i < count; i++) x[i] = quince::number_of(logits[i]);
  const float highest = *std::max_element(x.begin(), x.end()), scale = quince::LOG2_E / row.temperature;
  if (!std::isfinite(highest)) return 0;
  auto exponent = [&](int i) { return (x[i] - highest) * scale; };
  std::vector<int> order(count);
  for (int i = 0; i < count; i++) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  float least = -INFINITY;
  if (row.top_k > 0 && row.top_k < count) least = x[order[row.top_k - 1]];
  if (row.top_p < 1) {
    double total = 0, above = 0;
    auto mass = [&](int i) { return exponent(i) >= quince::NO_MASS ? exp2f(exponent(i)) : 0; };
    for (int i = 0; i < count; i++) if (x[i] >= least) total += mass(i);
    for (int i : order) { above += mass(i); if (above >= row.top_p * total) { least = max(least, x[i]); break; } }
  }
  Units total = 0, sum = 0;
  auto units = [&](int i) {
    return x[i] >= least && exponent(i) >= log2f(row.min_p) ? (Units)(quince::UNIT * exp2f(exponent(i))) : 0;
  };
  for (int i = 0; i < count; i++) total += units(i);
  const Units point = (Units)((unsigned __int128)total * (Units)(row.draw * (1 << 24)) >> 24);
  for (int i = 0; i < count; i++) if ((sum += units(i)) > point) return i;
  return -1;
}

// Prints how many rows are wrong, of logits with `stride` from each row to the next.
template <typename T>
void run(const std::vector<T>& logits, int stride, int count, const std::vector<Parameters>& rows) {
  std::vector<float> t, p, m, d;
  std::vector<int> k, out(rows.size(), -7);
  for (auto& row : rows) {
    t.push_back(row.temperature); p.push_back(row.top_p); m.push_back(row.min_p); d.push_back(row.draw);
    k.push_back(row.top_k);
  }
  gridDim = {(int)rows.size(), 1, 1};
  kernel = [&] {
    quince::sample<T, 256>(logits.data(), stride, count, t.data(), k.data(), p.data(), m.data(), d.data(), out.data());
  };
  run_grid(256);
  int wrong = 0;
  for (size_t r = 0; r < rows.size(); r++) {
    const int right = expected(&logits[r * stride], count, rows[r]);
    if (right != out[r]) { wrong++; fprintf(stderr, "row %d: %d, not %d\n", (int)r, out[r], right); }
  }
  printf("%d\n", wrong);
}

const float LAST_DRAW = ((1 << 24) - 1) / float(1 << 24);

// Random rows; `masked`: most logits are -infinity.
template <typename T>
void random_rows(int count, float spread, bool masked = false) {
  static std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  const int stride = count + 3;
  std::vector<Parameters> rows(12);
  std::vector<T> logits(rows.size() * stride);
  for (auto& x : logits) x = as<T>(masked && uniform(generator) < 0.9 ? -INFINITY : spread * normal(generator));
  for (int r = 0; r < (int)rows.size(); r++) {
    logits[(size_t)r * stride + r % count] = as<T>(0.5f);
    rows[r].temperature = 0.3f + uniform(generator);
    if (r % 3) rows[r].top_p = uniform(generator);
    if (r % 4 == 0) rows[r].min_p = 0.1f * uniform(generator);
    if (r % 2 == 0) rows[r].top_k = 1 + int(uniform(generator) * count);
    rows[r].draw = int(uniform(generator) * (1 << 24)) / float(1 << 24);
  }
  rows[5].top_p = 1e-6f; rows[6].draw = 0; rows[7].draw = LAST_DRAW; rows[8].top_k = 1; rows[9].min_p = 1;
  run(logits, stride, count, rows);
}

// -0 is as likely as 0, a row that has no number is not drawn from, and top_k may leave out one token.
void edges() {
  const int count = 40;
  std::vector<float> logits(5 * count);
  for (int i = 0; i < count; i++) {
    logits[i] = i % 2 ? 0.0f : -0.0f;
    logits[count + i] = -INFINITY; logits[2 * count + i] = NAN; logits[3 * count + i] = INFINITY;
    logits[4 * count + i] = -0.01f * i;
  }
  const Parameters row = {.top_p = 0.5f, .draw = LAST_DRAW, .top_k = 3};
  run(logits, count, count, {row, row, row, row, {.draw = LAST_DRAW, .top_k = count - 1}});
}

// Many tokens that have hardly a mass count for nothing, whatever type the logits have.
template <typename T>
void tail() {
  std::vector<T> logits(100002, as<T>(-22.875f));
  logits[0] = as<T>(0); logits[1] = as<T>(-1);
  run(logits, 0, logits.size(), {{.top_p = 0.731055f, .draw = 0.99f}});
}

int main() {
  for (int order = 0; order < 2; order++) {
    last_warp_first = order;
    random_rows<float>(1000, 3); random_rows<__nv_bfloat16>(3001, 0.2f);
  }
  random_rows<__nv_bfloat16>(300, 5, true); random_rows<float>(1500, 0.01f, true);
  random_rows<float>(1, 1); random_rows<float>(33, 1);
  edges();
  tail<float>(); tail<__nv_bfloat16>();
}
