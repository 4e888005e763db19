#include <algorithm>
#include <vector>

#include "caffe/layers/l1_loss_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

namespace {

const int kThreads = 256;
const int kMaxBlocks = 1024;

inline int Blocks(const int n) {
  return std::max(1, std::min(kMaxBlocks, (n - 1) / kThreads + 1));
}

// As CUDA_KERNEL_LOOP, but does not overflow near 2^31.
#define L1_LOSS_KERNEL_LOOP(i, n) \
  for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; \
      i < static_cast<unsigned int>(n); i += blockDim.x * gridDim.x)

enum Quantity { kWeight, kNonzeroWeight, kWeightedLoss, kWeightedSign };

// The bottoms, and what the options make of them.
template <typename Dtype>
struct Inputs {
  const Dtype* x;
  const Dtype* y;
  const Dtype* w;  // NULL stands for ones
  L1LossBroadcast weight_map;
  L1LossIgnore<Dtype> ignore;

  Inputs(const vector<Blob<Dtype>*>& bottom, const L1LossBroadcast& weight_map,
      const L1LossIgnore<Dtype>& ignore)
      : x(bottom[0]->gpu_data()), y(bottom[1]->gpu_data()),
        w(bottom.size() > 2 ? bottom[2]->gpu_data() : NULL),
        weight_map(weight_map), ignore(ignore) {}

  // What element i contributes, which may be beyond the range of Dtype; 0 where
  // the target is ignored.
  template <Quantity kQuantity>
  __device__ double at(const int i, const double scale = 1) const {
    if (ignore.any() && ignore(y[i])) { return 0; }
    const Dtype difference = x[i] - y[i];
    const double size = difference - difference == 0
        ? fabs(static_cast<double>(difference))
        : fabs(static_cast<double>(x[i]) - y[i]);
    const double weight = !w ? scale
        : scale * w[weight_map.identity() ? i : weight_map.index(i)];
    return kQuantity == kWeight ? weight
        : kQuantity == kNonzeroWeight ? (weight != 0)
        : kQuantity == kWeightedLoss ? size * weight
        // The difference itself is the sign of 0 and of NaN.
        : difference > 0 ? weight : difference < 0 ? -weight : difference;
  }
};

// Sums a value over the threads of a block, always in the same order, so that
// the loss does not change from run to run; the sum is thread 0's.
__device__ double BlockSum(const double value) {
  __shared__ double sum[kThreads];
  __syncthreads();  // the sum before this one has been read
  sum[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) { sum[threadIdx.x] += sum[threadIdx.x + half]; }
  }
  return sum[threadIdx.x];
}

// partial[b] and partial[kMaxBlocks + b]: the loss and the count of block b.
template <typename Dtype>
__global__ void SumBlocksKernel(const int n, const Inputs<Dtype> inputs,
    const bool counts, const bool sum_weights, double* partial) {
  double loss = 0, counted = 0;
  L1_LOSS_KERNEL_LOOP(i, n) {
    loss += inputs.template at<kWeightedLoss>(i);
    if (counts) {
      counted += sum_weights ? inputs.template at<kWeight>(i)
          : inputs.template at<kNonzeroWeight>(i);
    }
  }
  loss = BlockSum(loss);
  counted = BlockSum(counted);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = loss;
    partial[kMaxBlocks + blockIdx.x] = counted;
  }
}

// One block: the loss to top, its divisor behind the partial sums.
template <typename Dtype>
__global__ void FinishSumKernel(const int blocks, const bool counts,
    const double fixed_divisor, double* partial, Dtype* top) {
  double loss = 0, counted = 0;
  for (int b = threadIdx.x; b < blocks; b += kThreads) {
    loss += partial[b];
    counted += partial[kMaxBlocks + b];
  }
  loss = BlockSum(loss);
  counted = BlockSum(counted);
  if (threadIdx.x == 0) {
    const double divisor = counts ? counted : fixed_divisor;
    partial[2 * kMaxBlocks] = divisor;
    *top = divisor == 0 ? 0 : loss / divisor;
  }
}

// e itself
template <typename Dtype>
__global__ void ElementwiseKernel(const int n, const Inputs<Dtype> inputs,
    Dtype* top) {
  L1_LOSS_KERNEL_LOOP(i, n) {
    top[i] = inputs.template at<kWeightedLoss>(i);
  }
}

// The means of e over rows, one block of threads for a row at a time.
template <typename Dtype>
__global__ void RowMeansKernel(const int rows, const int row,
    const Inputs<Dtype> inputs, Dtype* top) {
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    double sum = 0;
    for (unsigned int i = threadIdx.x; i < row; i += kThreads) {
      sum += inputs.template at<kWeightedLoss>(r * row + i);
    }
    sum = BlockSum(sum);
    if (threadIdx.x == 0) { top[r] = sum / row; }
  }
}

// top_diff is one number, with its divisor on the device.
template <typename Dtype>
__global__ void BackwardReducedKernel(const int n, const Inputs<Dtype> inputs,
    const double* divisor, const Dtype* top_diff, Dtype* x_diff,
    Dtype* y_diff) {
  const bool zero = *divisor == 0;
  const double scale = zero ? 0 : *top_diff / *divisor;
  L1_LOSS_KERNEL_LOOP(i, n) {
    const Dtype g = zero ? 0 : inputs.template at<kWeightedSign>(i, scale);
    if (x_diff) { x_diff[i] = g; }
    if (y_diff) { y_diff[i] = -g; }
  }
}

// top_diff has one number for each row of elements.
template <typename Dtype>
__global__ void BackwardUnreducedKernel(const int n, const Inputs<Dtype> inputs,
    const int row, const Dtype* top_diff, Dtype* x_diff, Dtype* y_diff) {
  const double scale = 1. / row;
  L1_LOSS_KERNEL_LOOP(i, n) {
    const Dtype g = inputs.template at<kWeightedSign>(i,
        scale * top_diff[i / row]);
    if (x_diff) { x_diff[i] = g; }
    if (y_diff) { y_diff[i] = -g; }
  }
}

}  // namespace

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

// Caffe's memory is 0 at first, and so is the divisor before any forward pass.
template <typename Dtype>
Blob<double>* L1LossLayer<Dtype>::Partial() {
  L1LossReshape(vector<int>(1, 2 * kMaxBlocks + 1), &partial_);
  return &partial_;
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardReduced_gpu(const vector<Blob<Dtype>*>& bottom,
    Blob<Dtype>* top) {
  const int count = bottom[0]->count();
  const int blocks = Blocks(count);
  double* partial = Partial()->mutable_gpu_data();
  // NOLINT_NEXT_LINE(whitespace/operators)
  SumBlocksKernel<Dtype><<<blocks, kThreads>>>(count,
      Inputs<Dtype>(bottom, weight_map_, ignore_), counts(),
      options_.reduction() == L1LossParameter::WEIGHTED_MEAN, partial);
  CUDA_POST_KERNEL_CHECK;
  // NOLINT_NEXT_LINE(whitespace/operators)
  FinishSumKernel<Dtype><<<1, kThreads>>>(blocks, counts(),
      Divisor(*bottom[0], 0), partial, top->mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardUnreduced_gpu(
    const vector<Blob<Dtype>*>& bottom, Blob<Dtype>* top) {
  const int count = bottom[0]->count();
  const int row = count / top->count();
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_);
  Dtype* out = top->mutable_gpu_data();
  if (row == 1) {
    // NOLINT_NEXT_LINE(whitespace/operators)
    ElementwiseKernel<Dtype><<<Blocks(count), kThreads>>>(count, inputs, out);
  } else {
    // NOLINT_NEXT_LINE(whitespace/operators)
    RowMeansKernel<Dtype><<<std::min(kMaxBlocks, top->count()), kThreads>>>(
        top->count(), row, inputs, out);
  }
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
void L1LossLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top,
    const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom) {
  CheckPropagateDown(propagate_down);
  const int count = bottom[0]->count();
  if (count == 0 || !(propagate_down[0] || propagate_down[1])) { return; }
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_);
  Dtype* diff[2];
  for (int i = 0; i < 2; ++i) {
    diff[i] = propagate_down[i] ? bottom[i]->mutable_gpu_diff() : NULL;
  }
  if (options_.reduction() == L1LossParameter::NONE) {
    // NOLINT_NEXT_LINE(whitespace/operators)
    BackwardUnreducedKernel<Dtype><<<Blocks(count), kThreads>>>(count, inputs,
        count / top[0]->count(), top[0]->gpu_diff(), diff[0], diff[1]);
  } else {
    // NOLINT_NEXT_LINE(whitespace/operators)
    BackwardReducedKernel<Dtype><<<Blocks(count), kThreads>>>(count, inputs,
        Partial()->gpu_data() + 2 * kMaxBlocks, top[0]->gpu_diff(), diff[0],
        diff[1]);
  }
  CUDA_POST_KERNEL_CHECK;
}

INSTANTIATE_LAYER_GPU_FUNCS(L1LossLayer);

}  // namespace caffe
