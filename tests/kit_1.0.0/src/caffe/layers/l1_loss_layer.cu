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

// What the kernels read of the bottoms, and how the options look at it.
template <typename Dtype>
struct Inputs {
  const Dtype* x;
  const Dtype* y;
  const Dtype* w;  // NULL without weights
  L1LossBroadcast weight_map;
  L1LossIgnore<Dtype> ignore;

  __device__ bool ignored(const int i) const {
    return ignore.any() && ignore(y[i]);
  }
  __device__ Dtype weight(const int i) const {
    return w[weight_map.identity() ? i : weight_map.index(i)];
  }
  // e of element i
  __device__ Dtype loss(const int i) const {
    const Dtype difference = x[i] - y[i];
    if (ignored(i)) { return 0; }
    const Dtype e = difference < 0 ? -difference : difference;
    return w ? e * weight(i) : e;
  }
  // scale * sign(x - y) * w; x - y itself is the sign of 0 and of NaN
  __device__ Dtype gradient(const int i, const Dtype scale) const {
    const Dtype difference = x[i] - y[i];
    if (ignored(i)) { return 0; }
    const Dtype g = difference > 0 ? scale
        : (difference < 0 ? -scale : difference);
    return w ? g * weight(i) : g;
  }
  // what element i adds to a divisor that counts
  __device__ double counted(const int i, const bool sum_weights) const {
    if (ignored(i)) { return 0; }
    if (!w) { return 1; }
    return sum_weights ? weight(i) : (weight(i) != 0 ? 1 : 0);
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
  return sum[0];
}

// partial[b] and partial[kMaxBlocks + b]: the loss and the count of block b.
template <typename Dtype>
__global__ void SumBlocksKernel(const int n, const Inputs<Dtype> inputs,
    const bool counts, const bool sum_weights, double* partial) {
  double loss = 0, counted = 0;
  L1_LOSS_KERNEL_LOOP(i, n) {
    loss += inputs.loss(i);
    if (counts) { counted += inputs.counted(i, sum_weights); }
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
    top[i] = inputs.loss(i);
  }
}

// The means of e over rows, one block of threads for a row at a time.
template <typename Dtype>
__global__ void RowMeansKernel(const int rows, const int row,
    const Inputs<Dtype> inputs, Dtype* top) {
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    double sum = 0;
    for (unsigned int i = threadIdx.x; i < row; i += kThreads) {
      sum += inputs.loss(r * row + i);
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
  const Dtype scale = zero ? 0 : *top_diff / *divisor;
  L1_LOSS_KERNEL_LOOP(i, n) {
    const Dtype g = zero ? Dtype(0) : inputs.gradient(i, scale);
    if (x_diff) { x_diff[i] = g; }
    if (y_diff) { y_diff[i] = -g; }
  }
}

// top_diff has one number for each row of elements.
template <typename Dtype>
__global__ void BackwardUnreducedKernel(const int n, const Inputs<Dtype> inputs,
    const int row, const Dtype* top_diff, Dtype* x_diff, Dtype* y_diff) {
  const Dtype scale = Dtype(1) / row;
  L1_LOSS_KERNEL_LOOP(i, n) {
    const Dtype g = inputs.gradient(i, scale) * top_diff[i / row];
    const Dtype selected = inputs.ignored(i) ? Dtype(0) : g;
    if (x_diff) { x_diff[i] = selected; }
    if (y_diff) { y_diff[i] = -selected; }
  }
}

template <typename Dtype>
Inputs<Dtype> MakeInputs(const vector<Blob<Dtype>*>& bottom,
    const L1LossBroadcast& weight_map, const L1LossIgnore<Dtype>& ignore) {
  Inputs<Dtype> inputs;
  inputs.x = bottom[0]->gpu_data();
  inputs.y = bottom[1]->gpu_data();
  inputs.w = bottom.size() > 2 ? bottom[2]->gpu_data() : NULL;
  inputs.weight_map = weight_map;
  inputs.ignore = ignore;
  return inputs;
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

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardReduced_gpu(const vector<Blob<Dtype>*>& bottom,
    Blob<Dtype>* top) {
  const int count = bottom[0]->count();
  const int blocks = Blocks(count);
  L1LossReshape(vector<int>(1, 2 * kMaxBlocks + 1), &partial_);
  double* partial = partial_.mutable_gpu_data();
  // NOLINT_NEXT_LINE(whitespace/operators)
  SumBlocksKernel<Dtype><<<blocks, kThreads>>>(count,
      MakeInputs(bottom, weight_map_, ignore_), counts(),
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
  const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
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
  const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
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
        partial_.gpu_data() + 2 * kMaxBlocks, top[0]->gpu_diff(), diff[0],
        diff[1]);
  }
  CUDA_POST_KERNEL_CHECK;
}

INSTANTIATE_LAYER_GPU_FUNCS(L1LossLayer);

}  // namespace caffe
