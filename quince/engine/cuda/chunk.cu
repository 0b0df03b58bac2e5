// Causal attention of a chunk of each row's tokens: the last `width` of its columns are the chunk's own.
//
// FlashAttention-2 (Dao, 2023) with mma.m16n8k16. A block has QUERIES queries of one key head (its query heads one after
// the other, with `width` tokens each) and a part of the columns; each warp has STRIPS times 16 of the queries, so that
// what it reads of the keys and values serves all of them. Columns come in tiles of TILE, the next of which is on its
// way while one is computed. What the parts of the columns give is merged by `merge_parts`.
//
// Of a product of matrices, a lane has: of 16 x 16 numbers, those of two rows, eight apart, in four words; of a result
// of 16 x 8, those of two rows and two neighbouring columns (PTX ISA, "Matrix Fragments for mma.m16n8k16").

namespace quince {

constexpr int TILE = 64;
constexpr int CHUNK_WARPS = 4;
constexpr int STRIPS = 2;
constexpr int QUERIES = CHUNK_WARPS * STRIPS * 16;

#ifndef EMULATED
__device__ inline float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

__device__ inline unsigned pack(float a, float b, __nv_bfloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&both);
}
__device__ inline unsigned pack(float a, float b, __half) {
  const __half2 both = __floats2half2_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&both);
}

__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 x 8, whose rows are where the lanes say: the first one's where lanes 0 to 7 say, and so on.
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at));
}
__device__ inline void load_transposed(unsigned (&to)[4], const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at));
}

__device__ inline void copy_async(void* to, const void* from) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from));
}
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;"); }
// Until all but the last PENDING groups of copies have come.
template <int PENDING>
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING)); }
#endif

// Where 16 bytes of a row of D numbers lie in shared memory: those of eight neighbouring rows in different banks.
template <int D>
__device__ inline int place(int row, int piece) { return row * D + (piece ^ (row % 8)) * 8; }

// Begins to copy ROWS rows of D numbers; `at(r)` is where row r is.
template <int D, int ROWS, typename T, typename At>
__device__ inline void fetch(T* to, At at) {
  constexpr int PIECES = D / 8;
#pragma unroll
  for (int i = threadIdx.x; i < ROWS * PIECES; i += CHUNK_WARPS * WARP)
    copy_async(to + place<D>(i / PIECES, i % PIECES), at(i / PIECES) + i % PIECES * 8);
}

// A warp's queries, and the running softmax of each over the tiles so far. Each lane has the same part of 16 of them as
// of a product's result.
template <typename T, int D>
struct Strips {
  using Scores = float[STRIPS][TILE / 8][4];

  float output[STRIPS][D / 8][4] = {};
  float highest[STRIPS][2];
  float weight[STRIPS][2] = {};  // of this lane's columns only

  __device__ Strips() {
#pragma unroll
    for (int s = 0; s < STRIPS; s++) highest[s][0] = highest[s][1] = LOWEST;
  }

  // `queries`: the first of this warp's, in shared memory.
  __device__ void multiply_keys(Scores& score, const T* queries, const T* keys, int lane) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      unsigned query[STRIPS][4];  // matrices: queries 0-7 and 8-15 with the first half of k, then with the second
#pragma unroll
      for (int s = 0; s < STRIPS; s++)
        load_matrices(query[s], queries + place<D>(s * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < TILE / 16; n++) {  // matrices: columns 0-7 with both halves of k, then columns 8-15
        unsigned key[4];
        load_matrices(key, keys + place<D>(n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int s = 0; s < STRIPS; s++) {
          multiply(score[s][n * 2], query[s], key[0], key[1], T());
          multiply(score[s][n * 2 + 1], query[s], key[2], key[3], T());
        }
      }
    }
  }

  // Hides the columns, of a tile that begins at column `first`, behind the last that each query sees.
  __device__ void mask(Scores& score, const int (&last)[STRIPS][2], int first, int lane) {
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
      for (int n = 0; n < TILE / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (first + n * 8 + lane % 4 * 2 + i % 2 > last[s][i / 2]) score[s][n][i] = -INFINITY;
  }

  // Turns scores into weights. `factor`: by which scores are multiplied to be powers of two.
  __device__ void weigh(Scores& score, float factor) {
#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        float higher = LOWEST;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) higher = fmaxf(higher, fmaxf(score[s][n][r * 2], score[s][n][r * 2 + 1]));
        higher = fmaxf(higher, __shfl_xor_sync(0xffffffff, higher, 1));
        higher = fmaxf(higher, __shfl_xor_sync(0xffffffff, higher, 2));
        higher = fmaxf(higher * factor, highest[s][r]);
        const float shrink = power_of_two(highest[s][r] - higher);
        highest[s][r] = higher;
        weight[s][r] *= shrink;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
          output[s][n][r * 2] *= shrink;
          output[s][n][r * 2 + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
          for (int i = r * 2; i < r * 2 + 2; i++) {
            score[s][n][i] = power_of_two(fmaf(score[s][n][i], factor, -higher));
            weight[s][r] += score[s][n][i];
          }
        }
      }
    }
  }

  __device__ void add_values(const Scores& score, const T* values, int lane) {
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
      unsigned weights[STRIPS][4];  // as they came out of one product they go into the next
#pragma unroll
      for (int s = 0; s < STRIPS; s++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float* both = &score[s][k * 2 + i / 2][i % 2 * 2];
          weights[s][i] = pack(both[0], both[1], T());
        }
      }
#pragma unroll
      for (int n = 0; n < D / 16; n++) {  // matrices: both halves of k with numbers 0-7, then with numbers 8-15
        unsigned value[4];
        load_transposed(value, values + place<D>(k * 16 + lane / 8 % 2 * 8 + lane % 8, n * 2 + lane / 16));
#pragma unroll
        for (int s = 0; s < STRIPS; s++) {
          multiply(output[s][n * 2], weights[s], value[0], value[1], T());
          multiply(output[s][n * 2 + 1], weights[s], value[2], value[3], T());
        }
      }
    }
  }
};

// `shared`: room for the queries, and two tiles of keys and of values. If the columns are in parts (SPLIT), a row of `parts`
// is a query's with one of them; else attention goes to `out`, token by token with all heads of each, as models go on with it.
template <typename T, int D, bool SPLIT>
__device__ void chunk_attention(
    const T* queries, Index query_row, Index query_head, Index query_token,
    const T* keys, Index key_row, Index key_head, Index key_column,
    const T* values, Index value_row, Index value_head, Index value_column,
    const float* scale, int heads, int key_heads, int width, int columns,
    T* out, float* parts, float* sums, T* shared) {
  constexpr int SIZE = TILE * D;
  T* const tiles = shared + QUERIES * D;
  const int group = heads / key_heads, count = group * width;
  const int row = blockIdx.z / key_heads, key = blockIdx.z % key_heads;
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int own = blockIdx.x * QUERIES;
  const int most = min(own + QUERIES, count) - 1;
  // Columns that the block's last token sees; if it has tokens of two heads, all.
  const int visible = own / width == most / width ? columns - width + most % width + 1 : columns;
  const int span = ((columns + gridDim.y - 1) / gridDim.y + TILE - 1) / TILE * TILE;
  const int begin = blockIdx.y * span, end = min(begin + span, visible);
  queries += row * query_row + key * group * query_head;
  keys += row * key_row + key * key_head;
  values += row * value_row + key * value_head;

  const auto fetch_tile = [&](int first) {
    T* to = tiles + first / TILE % 2 * 2 * SIZE;
    fetch<D, TILE>(to, [&](int r) { return keys + min(first + r, columns - 1) * key_column; });
    fetch<D, TILE>(to + SIZE, [&](int r) { return values + min(first + r, columns - 1) * value_column; });
    end_copies();
  };
  if (begin < end) {
    fetch<D, QUERIES>(shared, [&](int r) {
      const int at = min(own + r, count - 1);
      return queries + at / width * query_head + at % width * query_token;
    });
    fetch_tile(begin);
  }

  const int first_query = own + warp * STRIPS * 16 + lane / 4;  // of this lane's
  int last[STRIPS][2];
#pragma unroll
  for (int s = 0; s < STRIPS; s++)
#pragma unroll
    for (int r = 0; r < 2; r++) last[s][r] = columns - width + min(first_query + s * 16 + r * 8, count - 1) % width;

  const float factor = *scale * LOG2_E;
  Strips<T, D> strips;
  for (int first = begin; first < end; first += TILE) {
    if (first + TILE < end) {
      fetch_tile(first + TILE);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const T* key_tile = tiles + first / TILE % 2 * 2 * SIZE;
    float score[STRIPS][TILE / 8][4] = {};
    strips.multiply_keys(score, shared + warp * STRIPS * 16 * D, key_tile, lane);
    if (first + TILE > columns - width + 1) strips.mask(score, last, first, lane);
    strips.weigh(score, factor);
    strips.add_values(score, key_tile + SIZE, lane);
    __syncthreads();  // before the tile after the next overwrites it
  }

#pragma unroll
  for (int s = 0; s < STRIPS; s++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float weight = strips.weight[s][r];
      weight += __shfl_xor_sync(0xffffffff, weight, 1);
      weight += __shfl_xor_sync(0xffffffff, weight, 2);
      const int index = first_query + s * 16 + r * 8;
      if (index >= count) continue;
      const int head = key * group + index / width, token = index % width;
      if constexpr (SPLIT) {
        const Index part = (((Index)row * heads + head) * width + token) * gridDim.y + blockIdx.y;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
          for (int i = 0; i < 2; i++) parts[part * D + n * 8 + lane % 4 * 2 + i] = strips.output[s][n][r * 2 + i];
        if (lane % 4 == 0) {
          sums[part * 2] = strips.highest[s][r];
          sums[part * 2 + 1] = weight;
        }
      } else {
        unsigned* to = reinterpret_cast<unsigned*>(out + (((Index)row * width + token) * heads + head) * D);
        const float share = 1 / weight;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
          to[n * 4 + lane % 4] = pack(strips.output[s][n][r * 2] * share, strips.output[s][n][r * 2 + 1] * share, T());
      }
    }
  }
}

}  // namespace quince
