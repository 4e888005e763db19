#include <algorithm>
#include <cfloat>
#include <vector>

#include "caffe/layers/l1_loss_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

namespace {

const int kThreads = 256;
// A thread asks the memory for so many elements before it uses the first.
const int kPack = 4;
// So many parts of an input keep the largest device busy.
const int kMaxParts = 4096;

// ---- Elements ---------------------------------------------------------------

enum Quantity {
  kOne, kLoss, kWeight, kNonzeroWeight, kWeightedLoss, kWeightedSign
};

// A blob that is broadcast to the predictions.
template <typename Dtype>
struct Spread {
  const Dtype* data;  // NULL stands for ones
  L1LossBroadcast map;

  // Of the elements that Inputs::block takes.
  __device__ void Load(const unsigned int first, const unsigned int end,
      Dtype* factors) const {
    for (int k = 0; k < kPack; ++k) {
      const unsigned int i = first + k * blockDim.x;
      factors[k] = data && i < end ? data[map.index(i)] : Dtype(1);
    }
  }
};

// Elements that one thread takes at a time.
template <typename Dtype>
struct Block {
  Dtype x[kPack], y[kPack], weight[kPack], beta;
  bool kept[kPack];  // of those that are neither behind the last nor ignored

  // Not at once, since a kernel may load more before it waits for targets.
  __device__ void Ignore(const L1LossIgnore<Dtype>& ignore) {
    for (int k = 0; k < kPack; ++k) { kept[k] = kept[k] && !ignore(y[k]); }
  }

  // What element k contributes, computed in Number; 0 where it is not kept.
  template <typename Number, Quantity kQuantity, bool kSmooth>
  __device__ Number at(const int k, const Number w) const {
    const Number difference = static_cast<Number>(x[k]) - y[k];
    Number size = fabs(difference), slope = 1;
    if (kSmooth) {  // 1 from beta on, and no squares of large ones
      const Number near = size < beta ? size : Number(beta);
      slope = near / beta;
      // fma, or a compiler might fuse the product with what it is added to.
      size = fma(slope, fma(near, Number(-0.5), size), Number(0));
    }
    const Number v = kQuantity == kOne ? 1
        : kQuantity == kLoss ? size
        : kQuantity == kWeight ? w
        : kQuantity == kWeightedLoss ? size * w
        : kQuantity == kNonzeroWeight ? Number(w != 0)
        // The difference itself is the sign of 0 and of NaN.
        : difference > 0 ? w * slope : difference < 0 ? -w * slope : difference;
    return kept[k] ? v : 0;
  }
  template <typename Number, Quantity kQuantity, bool kSmooth>
  __device__ Number at(const int k) const {
    return at<Number, kQuantity, kSmooth>(k, weight[k]);
  }
};

// Sums a quantity times another. What is never negative meets in pairs in
// Dtype before it meets a double, which most devices add slowly. Products with
// weights can cancel: they meet in double, fused, and no compiler may choose.
template <typename Number, Quantity kQuantity, Quantity kTimes, bool kSmooth,
    typename Dtype>
__device__ double Sum(const Block<Dtype>& block) {
  if (kTimes == kOne) {
    return (block.template at<Number, kQuantity, kSmooth>(0)
            + block.template at<Number, kQuantity, kSmooth>(1))
        + (block.template at<Number, kQuantity, kSmooth>(2)
            + block.template at<Number, kQuantity, kSmooth>(3));
  }
  double sum = 0;
  for (int k = 0; k < kPack; ++k) {
    const double number = block.template at<Number, kQuantity, kSmooth>(k);
    const double times = block.template at<Number, kTimes, kSmooth>(k);
    sum = fma(number, times, sum);
  }
  return sum;
}

// What has left the range of Dtype, or is NaN or infinite, is summed again.
template <bool kSmooth, typename Dtype>
__device__ double Loss(const Block<Dtype>& block, const bool weighted) {
  const double sum = weighted ? Sum<Dtype, kLoss, kWeight, kSmooth>(block)
      : Sum<Dtype, kLoss, kOne, kSmooth>(block);
  return sum - sum == 0 ? sum : Sum<double, kLoss, kWeight, kSmooth>(block);
}

// What a block adds to a divisor that counts.
template <typename Dtype>
__device__ double Counted(const Block<Dtype>& block, const bool sum_weights) {
  return sum_weights ? Sum<Dtype, kOne, kWeight, false>(block)
      : Sum<Dtype, kNonzeroWeight, kOne, false>(block);
}

// The bottoms, and what the options make of them.
template <typename Dtype>
struct Inputs {
  const Dtype* x;
  const Dtype* y;
  Spread<Dtype> weight;
  L1LossIgnore<Dtype> ignore;
  Dtype beta;

  Inputs(const vector<Blob<Dtype>*>& bottom, const L1LossBroadcast& weight_map,
      const L1LossIgnore<Dtype>& ignore, const Dtype beta)
      : x(bottom[0]->gpu_data()), y(bottom[1]->gpu_data()), ignore(ignore),
        beta(beta) {
    weight.data = bottom.size() > 2 ? bottom[2]->gpu_data() : NULL;
    weight.map = weight_map;
  }

  // The elements first, first + blockDim.x and so on that are before the end;
  // none is ignored yet.
  __device__ Block<Dtype> block(const unsigned int first,
      const unsigned int end) const {
    Block<Dtype> block;
    block.beta = beta;
    weight.Load(first, end, block.weight);
    for (int k = 0; k < kPack; ++k) {
      const unsigned int i = first + k * blockDim.x;
      block.kept[k] = i < end;
      block.x[k] = i < end ? x[i] : Dtype(0);
      block.y[k] = i < end ? y[i] : Dtype(0);
    }
    return block;
  }
};

// ---- Passes -----------------------------------------------------------------

struct Sums {
  double loss, counted;
};

// Sums over the threads of a block that have the same threadIdx.y, always in
// the same order; the sum is that of the thread with threadIdx.x 0.
__device__ Sums BlockSum(const Sums& value) {
  __shared__ Sums sums[kThreads];
  Sums* const own = sums + threadIdx.y * blockDim.x + threadIdx.x;
  *own = value;
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      own->loss += own[half].loss;
      own->counted += own[half].counted;
    }
  }
  return *own;
}

// Rows of elements, cut into parts with a sum each. The shape alone says where,
// so that a loss is the same on every run and on every device.
struct Parts {
  unsigned int rows, row;      // their number, and the elements of one
  unsigned int per_row, part;  // parts of a row, and the elements of one
  dim3 threads;                // x for a part, y parts at a time

  Parts(const unsigned int rows, const unsigned int row)
      : rows(rows), row(row), threads(1) {
    while (threads.x < kThreads && threads.x * kPack < row) { threads.x *= 2; }
    threads.y = kThreads / threads.x;
    const unsigned int most = std::max(1u, std::min(kMaxParts / rows,
        row / (kThreads * kPack)));
    part = ((row - 1) / most / 32 + 1) * 32;
    per_row = (row - 1) / part + 1;
  }
  int blocks() const { return (rows * per_row - 1) / threads.y + 1; }
};

// The sums of parts, or the means of rows that are one part.
template <typename Dtype, bool kSmooth>
__global__ void SumKernel(const Parts parts, const Inputs<Dtype> inputs,
    const bool counts, const bool sum_weights, Sums* sums, Dtype* means,
    const double scale) {
  const unsigned int p = blockIdx.x * blockDim.y + threadIdx.y;
  const unsigned int row = p / parts.per_row;
  Sums result = {0, 0};
  if (row < parts.rows) {
    const unsigned int begin =
        row * parts.row + p % parts.per_row * parts.part;
    const unsigned int end = min(begin + parts.part, (row + 1) * parts.row);
#pragma unroll 1
    for (unsigned int i = begin + threadIdx.x; i < end;
        i += kPack * blockDim.x) {
      Block<Dtype> block = inputs.block(i, end);
      block.Ignore(inputs.ignore);
      if (counts) { result.counted += Counted(block, sum_weights); }
      result.loss += Loss<kSmooth>(block, inputs.weight.data != NULL);
    }
  }
  result = BlockSum(result);
  if (threadIdx.x > 0 || row >= parts.rows) { return; }
  if (means) {
    means[p] = result.loss * scale;
  } else {
    sums[p] = result;
  }
}

// A block for each row: the sum of its parts, divided by Z. That is fixed, or
// what they count; it is kept, and its inverse behind it.
template <typename Dtype>
__global__ void FinishKernel(const int per_row, const Sums* sums,
    const bool counts, const double fixed, double* divisor, Dtype* top) {
  Sums total = {0, 0};
#pragma unroll 8
  for (int p = threadIdx.x; p < per_row; p += kThreads) {
    const Sums part = sums[blockIdx.x * per_row + p];
    total.loss += part.loss;
    total.counted += part.counted;
  }
  total = BlockSum(total);
  if (threadIdx.x > 0) { return; }
  const double z = counts ? total.counted : fixed;
  top[blockIdx.x] = z == 0 ? 0 : total.loss / z;
  if (blockIdx.x == 0) {
    divisor[0] = z;
    divisor[1] = 1 / z;
  }
}

// Writes losses, or gradients: scale * top_diff times sign and weight. With a
// divisor and its inverse, top_diff / divisor, one number, takes the place of
// both. What leaves the range of Dtype on the way is computed again.
template <typename Dtype, Quantity kQuantity, bool kSmooth>
__global__ void WriteKernel(const unsigned int n, const Inputs<Dtype> inputs,
    const Spread<Dtype> top_diff, const double* divisor, const double scale,
    Dtype* plus, Dtype* minus) {
  const unsigned int first = blockIdx.x * (kPack * kThreads) + threadIdx.x;
  Dtype factors[kPack];
  top_diff.Load(first, divisor ? 0 : n, factors);
  Block<Dtype> block = inputs.block(first, n);
  const double z = divisor ? divisor[0] : 1;
  const double inverse = divisor ? divisor[1] : 1;
  const double numerator = divisor ? *top_diff.data : scale;
  const double all = numerator * inverse;
  block.Ignore(inputs.ignore);
  const bool normal = sizeof(Dtype) == sizeof(float)
      ? fabs(all) >= FLT_MIN && fabs(all) <= FLT_MAX
      : fabs(all) >= DBL_MIN && fabs(all) <= DBL_MAX;
  for (int k = 0; k < kPack; ++k) {
    const unsigned int i = first + k * kThreads;
    if (i >= n) { return; }
    Dtype v = block.template at<Dtype, kQuantity, kSmooth>(k,
        block.weight[k] * factors[k] * Dtype(all));
    if (z == 0) {
      v = 0;
    } else if (!normal || !(v - v == 0)) {
      v = block.template at<double, kQuantity, kSmooth>(k,
          static_cast<double>(block.weight[k]) * factors[k] * numerator / z);
    }
    if (plus) { plus[i] = v; }
    if (minus) { minus[i] = -v; }
  }
}

// ---- Launches ---------------------------------------------------------------

template <typename Dtype>
void SumParts(const Parts& parts, const Inputs<Dtype>& inputs,
    const bool counts, const bool sum_weights, Sums* sums, Dtype* means,
    const double scale) {
  void (*kernel)(Parts, Inputs<Dtype>, bool, bool, Sums*, Dtype*, double) =
      SumKernel<Dtype, false>;
  if (inputs.beta != 0) { kernel = SumKernel<Dtype, true>; }
  // NOLINT_NEXT_LINE(whitespace/operators)
  kernel<<<parts.blocks(), parts.threads>>>(parts, inputs, counts, sum_weights,
      sums, means, scale);
  CUDA_POST_KERNEL_CHECK;
}

// The sums of rows, divided by Z. Behind Z and its inverse is room for what the
// parts add up to.
template <typename Dtype>
void SumRows(const Parts& parts, const Inputs<Dtype>& inputs, const bool counts,
    const bool sum_weights, const double fixed, double* divisor, Dtype* top) {
  Sums* sums = reinterpret_cast<Sums*>(divisor + 2);
  SumParts<Dtype>(parts, inputs, counts, sum_weights, sums, NULL, 1);
  // NOLINT_NEXT_LINE(whitespace/operators)
  FinishKernel<Dtype><<<parts.rows, kThreads>>>(parts.per_row, sums, counts,
      fixed, divisor, top);
  CUDA_POST_KERNEL_CHECK;
}

template <Quantity kQuantity, typename Dtype>
void Write(const unsigned int n, const Inputs<Dtype>& inputs,
    const Spread<Dtype>& top_diff, const double* divisor, const double scale,
    Dtype* plus, Dtype* minus) {
  void (*kernel)(unsigned int, Inputs<Dtype>, Spread<Dtype>, const double*,
      double, Dtype*, Dtype*) = WriteKernel<Dtype, kQuantity, false>;
  if (inputs.beta != 0) { kernel = WriteKernel<Dtype, kQuantity, true>; }
  // NOLINT_NEXT_LINE(whitespace/operators)
  kernel<<<(n - 1) / (kPack * kThreads) + 1, kThreads>>>(n, inputs, top_diff,
      divisor, scale, plus, minus);
  CUDA_POST_KERNEL_CHECK;
}

}  // namespace

// ---- The layer --------------------------------------------------------------

// Caffe's memory is 0 at first, and so is the divisor before any forward pass.
template <typename Dtype>
Blob<double>* L1LossLayer<Dtype>::Partial() {
  L1LossReshape(vector<int>(1, 2 + 2 * kMaxParts), &partial_);
  return &partial_;
}

template <typename Dtype>
void L1LossLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  // Nothing to launch; the means over nothing are 0 on the CPU too.
  if (bottom[0]->count() == 0) { return Forward_cpu(bottom, top); }
  if (options_.reduction() == L1LossParameter::NONE) {
    ForwardUnreduced_gpu(bottom, top[0]);
  } else {
    ForwardReduced_gpu(bottom, top[0]);
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardReduced_gpu(const vector<Blob<Dtype>*>& bottom,
    Blob<Dtype>* top) {
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_, beta_);
  SumRows(Parts(1, bottom[0]->count()), inputs, counts(),
      options_.reduction() == L1LossParameter::WEIGHTED_MEAN,
      Divisor(*bottom[0], 0), Partial()->mutable_gpu_data(),
      top->mutable_gpu_data());
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardUnreduced_gpu(
    const vector<Blob<Dtype>*>& bottom, Blob<Dtype>* top) {
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_, beta_);
  const int count = bottom[0]->count(), row = count / top->count();
  const Parts parts(top->count(), row);
  Dtype* out = top->mutable_gpu_data();
  if (row == 1) {
    const Spread<Dtype> ones = {NULL, top_map_};
    Write<kWeightedLoss, Dtype>(count, inputs, ones, NULL, 1, out, NULL);
  } else if (parts.per_row == 1) {
    SumParts<Dtype>(parts, inputs, false, false, NULL, out, 1. / row);
  } else {
    SumRows(parts, inputs, false, false, row, Partial()->mutable_gpu_data(),
        out);
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top,
    const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom) {
  CheckPropagateDown(propagate_down);
  const int count = bottom[0]->count();
  if (count == 0 || !(propagate_down[0] || propagate_down[1])) { return; }
  Dtype* diff[2];
  for (int i = 0; i < 2; ++i) {
    diff[i] = propagate_down[i] ? bottom[i]->mutable_gpu_diff() : NULL;
  }
  const bool reduced = options_.reduction() != L1LossParameter::NONE;
  const Spread<Dtype> top_diff = {top[0]->gpu_diff(), top_map_};
  Write<kWeightedSign>(count,
      Inputs<Dtype>(bottom, weight_map_, ignore_, beta_), top_diff,
      reduced ? Partial()->gpu_data() : NULL,
      static_cast<double>(top[0]->count()) / count, diff[0], diff[1]);
}

INSTANTIATE_LAYER_GPU_FUNCS(L1LossLayer);

}  // namespace caffe
