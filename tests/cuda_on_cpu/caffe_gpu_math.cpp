// What Caffe's blobs and the forward pass of a loss call of math_functions.cu.
#include <vector>

#include "caffe/common.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

void caffe_gpu_memcpy(const size_t N, const void* X, void* Y) {
  if (X != Y) { CUDA_CHECK(cudaMemcpy(Y, X, N, cudaMemcpyDefault)); }
}

template <typename Dtype>
static Dtype Dot(const int n, const Dtype* x, const Dtype* y) {
  std::vector<Dtype> a(n), b(n);
  caffe_gpu_memcpy(n * sizeof(Dtype), x, a.data());
  caffe_gpu_memcpy(n * sizeof(Dtype), y, b.data());
  return caffe_cpu_dot<Dtype>(n, a.data(), b.data());
}

template <>
void caffe_gpu_dot<float>(int n, const float* x, const float* y, float* out) {
  *out = Dot(n, x, y);
}

template <>
void caffe_gpu_dot<double>(int n, const double* x, const double* y,
    double* out) {
  *out = Dot(n, x, y);
}

}  // namespace caffe
