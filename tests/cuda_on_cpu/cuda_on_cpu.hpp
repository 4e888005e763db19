// The part of CUDA that Caffe's blobs and our kernels need, on the CPU. Each
// thread of a block is a fiber, which runs until it waits at __syncthreads();
// blocks run one after another.
#ifndef CUDA_ON_CPU_HPP_
#define CUDA_ON_CPU_HPP_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>

// ---- The language -----------------------------------------------------------

using std::fabs;
using std::max;
using std::min;

#define __host__
#define __device__
#define __global__
// One block runs at a time; before each, this section is filled with garbage.
#define __shared__ static __attribute__((section("cuda_shared")))
#define __syncthreads() cuda_on_cpu::Wait(__FILE__, __LINE__)

struct uint3 { unsigned int x, y, z; };
struct dim3 : uint3 {
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_on_cpu {

void Wait(const char* file, int line);
void Run(dim3 grid, dim3 block, const std::function<void()>& thread);

template <typename T> struct Same { typedef T type; };

// What kernel<<<grid, block>>>(args...) is rewritten to.
template <typename... P>
void Launch(dim3 grid, dim3 block, void (*kernel)(P...),
    typename Same<P>::type... args) {
  Run(grid, block, [&] { kernel(args...); });
}

}  // namespace cuda_on_cpu

// ---- The runtime ------------------------------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDefault = 4 };
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
struct cudaDeviceProp {
  const char* name;
  size_t totalGlobalMem, sharedMemPerBlock, memPitch, totalConstMem,
      textureAlignment;
  int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsDim[3],
      maxGridSize[3], clockRate, major, minor, deviceOverlap,
      multiProcessorCount, kernelExecTimeoutEnabled;
};

cudaError_t cudaMalloc(void** pointer, size_t size);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind);
cudaError_t cudaMemset(void* to, int byte, size_t size);
cudaError_t cudaMallocHost(void** pointer, size_t size);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaGetDevice(int* device);
inline const char* cudaGetErrorString(cudaError_t) { return "failure"; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
// Named by code of Caffe's that no test reaches.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size,
    cudaMemcpyKind, cudaStream_t);

// ---- cuBLAS and cuRAND: no more than common.cpp names -----------------------

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_INITIALIZED,
  CUBLAS_STATUS_ALLOC_FAILED, CUBLAS_STATUS_INVALID_VALUE,
  CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_MAPPING_ERROR,
  CUBLAS_STATUS_EXECUTION_FAILED, CUBLAS_STATUS_INTERNAL_ERROR
};
enum curandStatus_t {
  CURAND_STATUS_SUCCESS, CURAND_STATUS_VERSION_MISMATCH,
  CURAND_STATUS_NOT_INITIALIZED, CURAND_STATUS_ALLOCATION_FAILED,
  CURAND_STATUS_TYPE_ERROR, CURAND_STATUS_OUT_OF_RANGE,
  CURAND_STATUS_LENGTH_NOT_MULTIPLE, CURAND_STATUS_DOUBLE_PRECISION_REQUIRED,
  CURAND_STATUS_LAUNCH_FAILURE, CURAND_STATUS_PREEXISTING_FAILURE,
  CURAND_STATUS_INITIALIZATION_FAILED, CURAND_STATUS_ARCH_MISMATCH,
  CURAND_STATUS_INTERNAL_ERROR
};
typedef struct cublasContext* cublasHandle_t;
typedef struct curandGenerator_st* curandGenerator_t;
enum { CURAND_RNG_PSEUDO_DEFAULT };
template <typename... P>
cublasStatus_t cublasCreate(P...) { return CUBLAS_STATUS_SUCCESS; }
template <typename... P>
cublasStatus_t cublasDestroy(P...) { return CUBLAS_STATUS_SUCCESS; }
template <typename... P>
curandStatus_t curandCreateGenerator(P...) { return CURAND_STATUS_SUCCESS; }
template <typename... P>
curandStatus_t curandDestroyGenerator(P...) { return CURAND_STATUS_SUCCESS; }
template <typename... P>
curandStatus_t curandSetPseudoRandomGeneratorSeed(P...) {
  return CURAND_STATUS_SUCCESS;
}
template <typename... P>
curandStatus_t curandSetGeneratorOffset(P...) { return CURAND_STATUS_SUCCESS; }

#endif  // CUDA_ON_CPU_HPP_
