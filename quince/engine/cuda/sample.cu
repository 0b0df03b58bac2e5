// The next token of every row that is sampled: one operation in place of a sort, two cumulative sums and some twenty
// others.
//
// A block has a row. Which logits stay is a threshold, and a threshold is found from its highest bits on, BITS at a
// time: of each candidate, how many tokens (top_k) or how much mass (top_p) is at or above it. Logits are compared as
// they come, which temperatures do not change.

namespace quince {

constexpr int BITS = 3;
constexpr int CANDIDATES = 1 << BITS;
constexpr int AHEAD = 8;               // logits that a thread waits for at once
constexpr float UNIT = 4294967296.0f;  // of the likeliest token's mass, 1, in whole numbers
constexpr float NO_MASS = -33.0f;      // exponents below it, whose masses are less than a unit, count for nothing
constexpr int DRAW_BITS = 24;          // of a random number
constexpr float MOST_SCALE = 1e30f;    // for a temperature whose inverse is no number

using Units = unsigned long long;  // of mass: sums of them are the same in whatever order

// A logit as a number, and as a key that is ordered as the numbers are.
__device__ inline float number_of(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float number_of(__half x) { return __half2float(x); }
__device__ inline float number_of(float x) { return x; }
__device__ inline void assign(float& to, float x) { to = x; }
__device__ inline unsigned ordered(unsigned bits, unsigned sign) {
  if (bits == sign) bits = 0;  // -0 is 0
  return bits & sign ? ~bits & (sign | (sign - 1)) : bits | sign;
}
__device__ inline unsigned key_of(__nv_bfloat16 x) { return ordered(__bfloat16_as_ushort(x), 0x8000u); }
__device__ inline unsigned key_of(__half x) { return ordered(__half_as_ushort(x), 0x8000u); }
__device__ inline unsigned key_of(float x) { return ordered(__float_as_uint(x), 0x80000000u); }
template <typename T>
__device__ inline unsigned key_near(float x) {
  T rounded;
  assign(rounded, x);
  return key_of(rounded);
}

template <typename Number>
__device__ inline Number warp_sum(Number x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

template <typename T, int THREADS>
struct SampledRow {
  static constexpr int WARPS = THREADS / WARP;

  const T* logits;
  int count;
  float scale, highest;

  __device__ float exponent(T x) const { return (number_of(x) - highest) * scale; }
  __device__ float mass(T x) const { return exp2f(exponent(x)); }

  // Of every `step`th token from `first` on.
  template <typename Visit>
  __device__ void visit(int first, int end, int step, Visit visitor) const {
    int i = first;
    for (; i + (AHEAD - 1) * step < end; i += AHEAD * step) {
      T next[AHEAD];
#pragma unroll
      for (int j = 0; j < AHEAD; j++) next[j] = logits[i + j * step];
#pragma unroll
      for (int j = 0; j < AHEAD; j++) visitor(next[j]);
    }
    for (; i < end; i += step) visitor(logits[i]);
  }

  __device__ float find_highest() const {
    __shared__ float all[WARPS];
    float found = -INFINITY;
    visit(threadIdx.x, count, THREADS, [&](T x) { found = fmaxf(found, number_of(x)); });
    for (int step = WARP / 2; step > 0; step /= 2) found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, step));
    if (threadIdx.x % WARP == 0) all[threadIdx.x / WARP] = found;
    __syncthreads();
    for (int warp = 0; warp < WARPS; warp++) found = fmaxf(found, all[warp]);
    return found;
  }

  // Of the whole block.
  __device__ void sum_up(float (&sums)[CANDIDATES]) const {
    __shared__ float all[CANDIDATES][WARPS], totals[CANDIDATES];
    static_assert(CANDIDATES <= WARPS && WARPS <= WARP);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < CANDIDATES; j++) {
      const float own = warp_sum(sums[j]);
      if (lane == 0) all[j][warp] = own;
    }
    __syncthreads();
    if (warp < CANDIDATES) {
      const float total = warp_sum(lane < WARPS ? all[warp][lane] : 0.0f);
      if (lane == 0) totals[warp] = total;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < CANDIDATES; j++) sums[j] = totals[j];
  }

  // The largest key from `low` to `high` at and above which there is enough of what `weight` gives each token: as much
  // as `wanted` says of all from `low` on. Candidates' sums are taken in one order, so a lower one's is not less.
  template <typename Weight, typename Wanted>
  __device__ unsigned threshold(unsigned low, unsigned high, Weight weight, Wanted wanted) const {
    float enough = 0;
    for (int shift = max(0, 32 - __clz(high - low) - BITS);; shift = max(0, shift - BITS)) {
      float sums[CANDIDATES] = {};
      visit(threadIdx.x, count, THREADS, [&](T x) {
        const unsigned key = key_of(x);
        if (key < low) return;
        const unsigned reached = (key - low) >> shift;  // the candidates up to this one
        const float own = weight(x);
#pragma unroll
        for (unsigned j = 0; j < CANDIDATES; j++)
          if (reached >= j) sums[j] += own;
      });
      sum_up(sums);
      if (enough == 0) enough = wanted(sums[0]);
      unsigned best = 0;
#pragma unroll
      for (int j = 1; j < CANDIDATES; j++)
        if (sums[j] >= enough) best = j;
      low += best << shift;
      if (shift == 0) return low;
    }
  }

  // The first token whose mass, with all before it that are kept, exceeds `share` of 2^DRAW_BITS of all of it: looked
  // for in the tokens of one warp after all together have found which.
  template <typename Kept>
  __device__ int draw(unsigned share, Kept kept) const {
    __shared__ Units all[WARPS];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Units point = 0;
    for (int first = 0, end = count;;) {
      const int each = (end - first + WARPS - 1) / WARPS, own = first + warp * each;
      Units sum = 0;
      visit(own + lane, min(end, own + each), WARP, [&](T x) { sum += kept(x) ? (Units)(UNIT * mass(x)) : 0; });
      sum = warp_sum(sum);
      __syncthreads();  // what was there has been read
      if (lane == 0) all[warp] = sum;
      __syncthreads();
      if (end - first == count) {
        Units total = 0;
        for (int part = 0; part < WARPS; part++) total += all[part];
        if (total == 0) return 0;  // the logits are no numbers
        const Units low = (1ull << DRAW_BITS) - 1;
        point = (total >> DRAW_BITS) * share + ((total & low) * share >> DRAW_BITS);
      }
      int part = 0;
      while (part < WARPS - 1 && all[part] <= point) point -= all[part++];
      first = min(count - 1, first + part * each);
      end = min(end, first + each);
      if (each == 1) return first;
    }
  }
};

// Logits [rows, count], each row `stride` after the one before; of each row, its parameters. top_k 0 keeps all.
template <typename T, int THREADS>
__device__ void sample(const T* logits, long long stride, int count, const float* temperature, const int* top_k,
                       const float* top_p, const float* min_p, const float* draws, int* out) {
  const int i = blockIdx.x;
  SampledRow<T, THREADS> row{logits + i * stride, count, fminf(LOG2_E / temperature[i], MOST_SCALE), 0};
  row.highest = row.find_highest();
  const unsigned high = key_near<T>(row.highest);
  unsigned least = 0;
  if (top_k[i] > 0 && top_k[i] < count) {
    const float enough = top_k[i];
    least = row.threshold(0, high, [](T) { return 1.0f; }, [=](float) { return enough; });
  }
  if (top_p[i] < 1) {
    const float part = top_p[i];
    const unsigned low = max(least, key_near<T>(row.highest + NO_MASS / row.scale));  // none with a mass is below
    least = row.threshold(low, high, [&](T x) { return row.exponent(x) >= NO_MASS ? row.mass(x) : 0; },
                          [=](float total) { return part * total; });
  }
  const float at_least = log2f(min_p[i]);
  const unsigned share = (unsigned)(draws[i] * (float)(1 << DRAW_BITS));
  const int token = row.draw(share, [&](T x) { return key_of(x) >= least && row.exponent(x) >= at_least; });
  if (threadIdx.x == 0) out[i] = token;
}

}  // namespace quince
