// Kernels with one mistake each, and one without: `mistakes NAME`. The emulator
// must find them.
#include <cuda_runtime.h>

#include <cstdio>
#include <string>

const int kThreads = 64;

__global__ void Neighbours(int* data, const bool waits, const int n) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  if (waits) { __syncthreads(); }
  const int next = shared[(threadIdx.x + 1) % kThreads];
  if (threadIdx.x < n) { data[threadIdx.x] = next; }
}

__global__ void SomeEnd(int* data) {
  if (threadIdx.x >= 32) { return; }
  __syncthreads();
  data[threadIdx.x] = 0;
}

__global__ void TwoBarriers(int* data) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  data[threadIdx.x] = 0;
}

int main(int, char** argv) {
  const std::string mistake = argv[1];
  const int n = kThreads - 1;
  const dim3 blocks = mistake == "no blocks" ? 0 : 2;
  int* data;
  int sum = 0, copy[kThreads];
  cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(int));
  if (mistake == "some end") {
    SomeEnd<<<blocks, kThreads>>>(data);
  } else if (mistake == "two barriers") {
    TwoBarriers<<<blocks, kThreads>>>(data);
  } else {
    Neighbours<<<blocks, kThreads>>>(data, mistake != "race",
        mistake == "past the end" ? kThreads : n);
  }
  if (mistake == "host reads") { return data[0]; }
  cudaMemcpy(copy, data, n * sizeof(int), cudaMemcpyDefault);
  for (int i = 0; i < n; ++i) { sum += copy[i]; }
  printf("%d\n", sum);
}
