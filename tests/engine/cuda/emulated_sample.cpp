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

template <typename T>
int expected(const T* logits, int count, float t, int k, float p, float m, float draw) {
  std::vector<float> x(count);
  for (int i = 0; i < count; i++) x[i] = quince::number_of(logits[i]);
  const float highest = *std::max_element(x.begin(), x.end());
  const float scale = quince::LOG2_E / t;
  std::vector<float> mass(count);
  for (int i = 0; i < count; i++) mass[i] = exp2f((x[i] - highest) * scale);
  std::vector<int> order(count);
  for (int i = 0; i < count; i++) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  float least = -INFINITY;
  if (k > 0 && k < count) least = x[order[k - 1]];
  if (p < 1) {
    double total = 0, above = 0;
    for (int i = 0; i < count; i++) if (x[i] >= least) total += mass[i];
    for (int i : order) { above += mass[i]; if (above >= p * total) { least = max(least, x[i]); break; } }
  }
  Units total = 0, sum = 0;
  auto units = [&](int i) { return (Units)(quince::UNIT * mass[i]); };
  auto kept = [&](int i) { return x[i] >= least && (x[i] - highest) * scale >= log2f(m); };
  for (int i = 0; i < count; i++) if (kept(i)) total += units(i);
  const Units point = (Units)((unsigned __int128)total * (Units)(draw * (1 << 24)) >> 24);
  for (int i = 0; i < count; i++) { if (kept(i)) sum += units(i); if (sum > point) return i; }
  return -1;
}

template <typename T>
void run(int count, float spread, bool masked) {
  const int rows = 12;
  static std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  const int stride = count + 3;
  std::vector<T> logits((size_t)rows * stride);
  for (auto& x : logits) x = as<T>(masked && uniform(generator) < 0.9 ? -INFINITY : spread * normal(generator));
  std::vector<float> t(rows), p(rows), m(rows), d(rows); std::vector<int> k(rows), out(rows, -7);
  for (int r = 0; r < rows; r++) {
    logits[(size_t)r * stride + r % count] = as<T>(0.5f);
    t[r] = 0.3f + uniform(generator); p[r] = r % 3 ? uniform(generator) : 1.0f; m[r] = r % 4 ? 0 : 0.1f * uniform(generator);
    k[r] = r % 2 ? 0 : 1 + int(uniform(generator) * count); d[r] = int(uniform(generator) * (1 << 24)) / float(1 << 24);
    if (r == 5) p[r] = 1e-6f;
    if (r == 6) d[r] = 0;
    if (r == 7) d[r] = ((1 << 24) - 1) / float(1 << 24);
    if (r == 8) k[r] = 1;
  }
  gridDim = {rows, 1, 1};
  kernel = [&] { quince::sample<T, 256>(logits.data(), stride, count, t.data(), k.data(), p.data(), m.data(), d.data(), out.data()); };
  run_grid(256);
  int wrong = 0;
  for (int r = 0; r < rows; r++) {
    const int e = expected(&logits[(size_t)r * stride], count, t[r], k[r], p[r], m[r], d[r]);
    if (e != out[r]) { wrong++; fprintf(stderr, "row %d: %d, not %d\n", r, out[r], e); }
  }
  printf("%d\n", wrong);
}
int main() {
  for (int order = 0; order < 2; order++) {
    last_warp_first = order;
    run<float>(1000, 3, false); run<__nv_bfloat16>(1000, 3, false); run<__nv_bfloat16>(3001, 0.2f, false);
    run<float>(7, 1, false); run<__nv_bfloat16>(300, 5, true); run<float>(2500, 0.01f, true);
  }
}
